/// @file
/// The gated MLP between its projections.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// y = x silu(gate), [x, gate] = the two halves of a row.
///
/// Shapes   input [R, 2 C]; y [R, C]. Writes y (=), which does not overlap the input.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int C>
void gated_activation(context<T>& ctx, std::type_identity_t<rows<T const, 2 * C>> input, rows<T, C> y) {
  require_extent("gated_activation.y rows", y.count, input.count);
  ctx.for_range(std::ptrdiff_t(y.count), 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      auto const x = array(input.data + r * 2 * C, C), gate = array(input.data + r * 2 * C + C, C);
      array(y.data + r * C, C) = x * gate / (T(1) + (-gate).exp());
    }
  });
}

/// With s = sigmoid(gate):  dx = dy gate s,  dgate = dy x s (1 + gate (1 - s)).
///
/// Shapes   as gated_activation; dy [R, C]; dinput [R, 2 C]. Writes dinput (=), which may be input itself.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int C>
void gated_activation_backward(context<T>& ctx, std::type_identity_t<rows<T const, 2 * C>> input, rows<T const, C> dy,
                               std::type_identity_t<rows<T, 2 * C>> dinput) {
  require_extent("gated_activation_backward.dy rows", dy.count, input.count);
  require_extent("gated_activation_backward.dinput rows", dinput.count, input.count);
  ctx.for_range(std::ptrdiff_t(dy.count), 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r)
      for (int c = 0; c < C; ++c) {
        T const x = input.data[r * 2 * C + c], gate = input.data[r * 2 * C + C + c], g = dy.data[r * C + c];
        T const s = T(1) / (T(1) + std::exp(-gate));
        dinput.data[r * 2 * C + c] = g * gate * s;
        dinput.data[r * 2 * C + C + c] = g * x * s * (T(1) + gate * (T(1) - s));
      }
  });
}

}  // namespace dm2::cpu
