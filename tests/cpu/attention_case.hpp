/// @file
/// A batch for the attention between its projections, with its gradients.
#pragma once

#include <dm2/cpu/attention_core_backward.hpp>

#include "cpu/naive.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <vector>

namespace dm2::test {

template <attention_shape A>
struct attention_case {
  static constexpr attention_shape shape = A;
  static constexpr int width = A.width(), taps = A.d_conv;
  int batch, length;
  cpu::context<double> ctx;
  random_source random{53};
  std::vector<double> qkv, conv, bias, dy, y, dqkv, dconv, dbias;

  attention_case(int sequences, int tokens, int threads = 1)
      : batch{sequences},
        length{tokens},
        ctx{threads},
        qkv{random.normal(count() * 3 * width)},
        conv{random.normal(std::size_t(3 * width * taps))},
        bias{random.normal(taps == 0 ? 0 : 3 * width)},
        dy{random.normal(count() * width)},
        y{poisoned(dy.size())},
        dqkv{poisoned(qkv.size())},
        dconv(conv.size()),
        dbias(bias.size()) {}

  [[nodiscard]] std::size_t count() const { return std::size_t(batch) * std::size_t(length); }
  [[nodiscard]] attention_parameters<A, double const> parameters() const {
    if constexpr (taps == 0)
      return {};
    else
      return {as_block<3 * width, 1, taps>(conv), as_block<3 * width>(bias)};
  }
  void forward() { cpu::attention_core<A>(ctx, as_rows<3 * width>(qkv), parameters(), as_rows<width>(y), length); }
  void backward() {
    attention_parameters<A, double> grad{};
    if constexpr (taps != 0) grad = {as_block<3 * width, 1, taps>(dconv), as_block<3 * width>(dbias)};
    cpu::attention_core_backward<A>(ctx, as_rows<3 * width>(qkv), parameters(), as_rows<width>(dy),
                                    as_rows<3 * width>(dqkv), grad, length);
  }
};

/// Its formula over every sequence of the batch.
template <attention_shape A>
naive::numbers naive_attention(attention_case<A> const& f) {
  constexpr int width = A.width();
  naive::numbers y;
  for (int i = 0; i < f.batch; ++i) {
    auto const first = f.qkv.begin() + std::ptrdiff_t{i} * f.length * 3 * width;
    naive::numbers x(first, first + std::ptrdiff_t{f.length} * 3 * width);
    if (A.d_conv != 0) x = naive::causal_conv1d(x, f.conv, f.bias);
    auto const part = [&](int which) { return naive::columns(x, 3 * width, which * width, width); };
    auto const turned = [&](int which) { return naive::rotary(part(which), A.heads, A.head_dim, A.rotary); };
    auto const one = naive::softmax_attention(turned(0), turned(1), part(2), A.heads, A.head_dim);
    y.insert(y.end(), one.begin(), one.end());
  }
  return y;
}

inline constexpr attention_shape plain_attention{.heads = 2, .head_dim = 5, .rotary = 0, .d_conv = 0};
inline constexpr attention_shape partly_turned{.heads = 3, .head_dim = 7, .rotary = 4, .d_conv = 4};
inline constexpr attention_shape fully_turned{.heads = 1, .head_dim = 6, .rotary = 6, .d_conv = 2};

}  // namespace dm2::test
