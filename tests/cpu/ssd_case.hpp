/// @file
/// A batch of sequences for the scan, with its gradients.
#pragma once

#include <dm2/cpu/ssd_backward.hpp>

#include "cpu/naive.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <type_traits>
#include <vector>

namespace dm2::test {

template <mixer_shape M, class T = double>
struct ssd_case {
  static constexpr mixer_shape shape = M;
  static constexpr int width = M.d_inner(), state = M.groups * M.d_state;
  int batch, length;
  cpu::context<T> ctx;
  std::vector<T> x, dt, a, b, c, d, dy, y;
  std::vector<T> dx, ddt, da, db, dc, dd;

  /// Operands to be filled in; every size is that of the batch.
  ssd_case(int sequences, int tokens, int threads)
      : batch{sequences},
        length{tokens},
        ctx{threads},
        a(M.heads),
        d(M.heads),
        y{poisoned<T>(rows_of(width))},
        dx{poisoned<T>(rows_of(width))},
        ddt{poisoned<T>(rows_of(M.heads))},
        da(M.heads),
        db{poisoned<T>(rows_of(state))},
        dc{db},
        dd(M.heads) {}

  [[nodiscard]] std::size_t rows_of(int channels) const { return std::size_t(batch) * std::size_t(length * channels); }

  [[nodiscard]] cpu::ssd_input<M, T> input() const {
    return {as_rows<width>(x),
            as_rows<M.heads>(dt),
            as_block<M.heads>(a),
            as_rows<state>(b),
            as_rows<state>(c),
            as_block<M.heads>(d),
            length};
  }
  void forward(cpu::scan_form form = cpu::scan_form::automatic) { cpu::ssd(ctx, input(), as_rows<width>(y), form); }
  void backward() {
    cpu::ssd_backward(ctx, input(), as_rows<width>(dy),
                      ssd_gradient<M, T>{as_rows<width>(dx), as_rows<M.heads>(ddt), as_block<M.heads>(da),
                                         as_rows<state>(db), as_rows<state>(dc), as_block<M.heads>(dd)});
  }
};

/// Seeded operands: steps of 0.001 to 0.3, rates of -1 to -16, so that heads remember from 1 to 1000 tokens.
template <mixer_shape M>
ssd_case<M> random_ssd(int batch, int length, int threads = 1) {
  ssd_case<M> f{batch, length, threads};
  random_source random{unsigned(41 + length)};
  f.x = random.normal(f.rows_of(f.width));
  f.dt = random.uniform(f.rows_of(M.heads), 0.001, 0.3);
  f.a = random.uniform(M.heads, -16, -1);
  f.b = random.normal(f.rows_of(f.state));
  f.c = random.normal(f.rows_of(f.state));
  f.d = random.normal(M.heads);
  f.dy = random.normal(f.rows_of(f.width));
  return f;
}

/// Odd in every size; two heads of one group, and two groups of two heads.
inline constexpr mixer_shape one_group{.heads = 2, .headdim = 5, .d_state = 3, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape two_groups{.heads = 4, .headdim = 3, .d_state = 7, .groups = 2, .d_conv = 4};

/// Sequence i of x, `per_token` numbers a token.
inline naive::numbers sequence_of(naive::numbers const& x, int i, int length, int per_token) {
  auto const first = x.begin() + std::ptrdiff_t{i} * length * per_token;
  return {first, first + std::ptrdiff_t{length} * per_token};
}

/// The recurrence over every sequence of the batch.
template <mixer_shape M>
naive::numbers naive_ssd(ssd_case<M> const& f) {
  naive::numbers y;
  for (int i = 0; i < f.batch; ++i) {
    auto const part = [&](naive::numbers const& v, int n) { return sequence_of(v, i, f.length, n); };
    auto const one = naive::ssd(part(f.x, f.width), part(f.dt, M.heads), f.a, part(f.b, f.state), part(f.c, f.state),
                                f.d, M.groups, M.d_state);
    y.insert(y.end(), one.begin(), one.end());
  }
  return y;
}

/// The sizes of the scans in layers.safetensors.
struct golden_l1 {
  static constexpr char const* name = "ssd_l1";
  static constexpr mixer_shape shape{.heads = 2, .headdim = 4, .d_state = 8, .groups = 1, .d_conv = 4};
  static constexpr int batch = 2, length = 1;
};
struct golden_l17 {
  static constexpr char const* name = "ssd_l17";
  static constexpr mixer_shape shape{.heads = 4, .headdim = 8, .d_state = 16, .groups = 2, .d_conv = 4};
  static constexpr int batch = 2, length = 17;
};
struct golden_l65 {
  static constexpr char const* name = "ssd_l65";
  static constexpr mixer_shape shape{.heads = 2, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4};
  static constexpr int batch = 1, length = 65;
};
struct golden_l197 {
  static constexpr char const* name = "ssd_l197";
  static constexpr mixer_shape shape{.heads = 2, .headdim = 48, .d_state = 32, .groups = 1, .d_conv = 4};
  static constexpr int batch = 1, length = 197;
};
/// One head forgets everything at each token, and its exponentials underflow; the other forgets nothing.
struct golden_extreme {
  static constexpr char const* name = "ssd_extreme";
  static constexpr mixer_shape shape{.heads = 2, .headdim = 8, .d_state = 16, .groups = 1, .d_conv = 4};
  static constexpr int batch = 1, length = 40;
};

/// A golden scan's operands; G is a golden_layer.
template <class Case, class T, class G>
ssd_case<Case::shape, T> golden_ssd(G const& g) {
  ssd_case<Case::shape, T> f{Case::batch, Case::length, 2};
  f.x = g.in("x"), f.dt = g.in("dt"), f.a = g.in("A"), f.b = g.in("B"), f.c = g.in("C"), f.d = g.in("D");
  f.dy = g.cotangent();
  return f;
}

}  // namespace dm2::test
