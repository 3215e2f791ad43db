/// @file
/// A batch for the mixer between its projections, with its gradients.
#pragma once

#include <dm2/cpu/mixer_core_backward.hpp>

#include "cpu/naive.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::test {

/// One direction's numbers, the parameters' or their gradients': conv, conv bias, dt bias, log A, D, norm.
using direction_numbers = std::array<std::vector<double>, 6>;
inline std::string const direction_names[]{"conv", "conv_bias", "dt_bias", "a_log", "d", "norm"};

/// The view of one direction; `d` holds the D that it reads.
template <mixer_shape M, class V>
auto direction_view(V& p, V& d) {
  using T = std::remove_reference_t<decltype(*p[0].data())>;
  constexpr int C = M.conv_dim();
  return mixer_direction<M, T>{as_block<C, 1, M.d_conv>(p[0]), as_block<C>(p[1]),       as_block<M.heads>(p[2]),
                               as_block<M.heads>(p[3]),        as_block<M.heads>(d[4]), as_block<M.d_inner()>(p[5])};
}

template <mixer_shape M>
struct mixer_case {
  static constexpr mixer_shape shape = M;
  static constexpr int projected = M.projected(), inner = M.d_inner();
  static constexpr std::size_t second_d = M.variant == mixer_variant::published ? 0 : 1;  ///< whose D direction 1 reads
  int batch, length;
  cpu::context<double> ctx;
  random_source random{61};
  std::vector<double> in, dg, g, din;
  std::array<direction_numbers, 2> p, grad;

  mixer_case(int sequences, int tokens, int threads = 1)
      : batch{sequences},
        length{tokens},
        ctx{threads},
        in{random.normal(count() * projected)},
        dg{random.normal(count() * 2 * inner)},
        g{poisoned(dg.size())},
        din{poisoned(in.size())} {
    for (auto& one : p)
      one = {random.normal(M.conv_dim() * M.d_conv), random.normal(M.conv_dim()), random.normal(M.heads, 1, -2),
             random.uniform(M.heads, 0, 2.7),        random.normal(M.heads),      random.normal(std::size_t(inner))};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t k = 0; k < 6; ++k) grad[i][k].assign(p[i][k].size(), 0);
  }

  [[nodiscard]] std::size_t count() const { return std::size_t(batch) * std::size_t(length); }
  [[nodiscard]] mixer_parameters<M, double const> parameters() const {
    return {direction_view<M>(p[0], p[0]), direction_view<M>(p[1], p[second_d])};
  }
  void forward() {
    cpu::mixer_core<M>(ctx, as_rows<projected>(std::as_const(in)), parameters(), as_rows<2 * inner>(g), length);
  }
  void backward() {
    cpu::mixer_core_backward<M>(
        ctx, as_rows<projected>(std::as_const(in)), parameters(), as_rows<2 * inner>(std::as_const(dg)),
        as_rows<projected>(din),
        mixer_parameters<M, double>{direction_view<M>(grad[0], grad[0]), direction_view<M>(grad[1], grad[second_d])},
        length);
  }
};

/// One direction of one sequence, x [L, projected] in its own order of tokens and channels; [L, d_inner].
template <mixer_shape M>
naive::numbers naive_direction(naive::numbers const& x, direction_numbers const& p, naive::numbers const& D) {
  constexpr int width = M.projected(), inner = M.d_inner(), C = M.conv_dim(), state = M.groups * M.d_state;
  auto u = naive::causal_conv1d(naive::columns(x, width, inner, C), p[0], p[1]);
  for (double& v : u) v = naive::silu(v);
  auto dt = naive::columns(x, width, inner + C, M.heads);
  for (std::size_t i = 0; i < dt.size(); ++i) dt[i] = naive::softplus(dt[i] + p[2][i % M.heads]);
  naive::numbers A = p[3];
  for (double& v : A) v = -std::exp(v);
  auto const y = naive::ssd(naive::columns(u, C, 0, inner), dt, A, naive::columns(u, C, inner, state),
                            naive::columns(u, C, inner + state, state), D, M.groups, M.d_state);
  return naive::gated_rms_norm(y, naive::columns(x, width, 0, inner), p[5], 1e-5, M.groups);
}

/// The projection or a direction's result with its tokens or channels in reverse, as the variant has it.
template <mixer_shape M>
naive::numbers flip(naive::numbers const& x, int width) {
  return M.variant == mixer_variant::published ? naive::flip_columns(x, width) : naive::flip_rows(x, width);
}

/// Both directions of sequence i, each [L, d_inner], in the order of the input's tokens and channels.
template <mixer_shape M>
std::array<naive::numbers, 2> naive_directions(mixer_case<M> const& f, int i) {
  auto const first = f.in.begin() + std::ptrdiff_t{i} * f.length * f.projected;
  naive::numbers const x(first, first + std::ptrdiff_t{f.length} * f.projected);
  return {naive_direction<M>(x, f.p[0], f.p[0][4]),
          flip<M>(naive_direction<M>(flip<M>(x, f.projected), f.p[1], f.p[f.second_d][4]), f.inner)};
}

inline constexpr mixer_shape published_mixer{.heads = 4, .headdim = 3, .d_state = 5, .groups = 2, .d_conv = 4};
inline constexpr mixer_shape plain_mixer{.heads = 3, .headdim = 5, .d_state = 2, .groups = 1, .d_conv = 3};
inline constexpr mixer_shape bidirectional_mixer{
    .heads = 4, .headdim = 3, .d_state = 5, .groups = 2, .d_conv = 2, .variant = mixer_variant::bidirectional};

}  // namespace dm2::test
