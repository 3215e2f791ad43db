/// @file
/// Floating-point operations of each operation.
///
/// A multiplication and the addition behind it count as two. Only matrix products and convolutions count, at the size
/// that the mathematics asks for: a causal product counts its lower triangle, and nothing that is computed again for
/// want of memory, that pads a border or that is pointwise (norms, activations, softmax, the depthwise convolutions,
/// 0.7 % of Tiny) counts.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/model/config.hpp>

#include <algorithm>

namespace dm2::bench {

/// [m, k] times [k, n].
constexpr double product_flops(double m, double n, double k) { return 2 * m * n * k; }

/// The scan of one sequence in its quadratic form: C B^T and its product with x, both for tokens j <= i, for each group
/// of heads. This form counts in a whole model, whatever form runs.
constexpr double scan_flops(mixer_shape m, double length) {
  return product_flops(length * (length + 1) / 2, m.d_state * m.groups + m.d_inner(), 1);
}

/// The same in chunks of 64 tokens: the quadratic form inside a chunk; between them, into the state and out of it.
constexpr double chunked_scan_flops(mixer_shape m, int length) {
  double flops = 0;
  for (int first = 0; first < length; first += 64) {
    int const n = std::min(64, length - first);
    bool const before = first > 0, after = first + n < length;
    flops += scan_flops(m, n) + (before + after) * product_flops(n, m.d_inner(), m.d_state);
  }
  return flops;
}

/// Both directions of the mixer's core.
constexpr double mixer_core_flops(mixer_shape m, double length) { return 2 * scan_flops(m, length); }

/// The scores, and their product with the values, of every head.
constexpr double attention_core_flops(attention_shape a, double length) {
  return 2 * product_flops(length, length, a.width());
}

/// The first convolution of the stem.
constexpr double first_convolution_flops(stem_shape s) {
  return product_flops(s.half_height() * s.half_width(), s.hidden, 7 * 7 * s.channels);
}

/// The stem for one picture: three convolutions and the patch projection.
constexpr double stem_flops(stem_shape s) {
  double const pixels = s.half_height() * s.half_width(), side = s.patch / 2;
  return first_convolution_flops(s) + 2 * product_flops(pixels, s.hidden, 9 * s.hidden) +
         product_flops(s.tokens(), s.dim, side * side * s.hidden);
}

/// One layer's input and output projections for one picture; both output projections of a mixer count.
template <config C>
constexpr double mixer_projection_flops() {
  using size = sizes<C>;
  return product_flops(size::length, size::projected, C.dim) + product_flops(size::length, C.dim, 2 * size::d_inner);
}
template <config C>
constexpr double attention_projection_flops() {
  using size = sizes<C>;
  return product_flops(size::length, 3 * size::attn_width, C.dim) +
         product_flops(size::length, C.dim, size::attn_width);
}

/// Both heads for one picture: the class token's and the patches'.
template <config C>
constexpr double head_flops() {
  return product_flops(sizes<C>::length, C.classes, C.dim);
}

/// Layer i's of one picture.
template <config C>
constexpr double layer_flops(int i) {
  using size = sizes<C>;
  double const mlp = product_flops(size::length, 3 * C.mlp_dim, C.dim);
  return mlp + (C.attn_layers.contains(i)
                    ? attention_projection_flops<C>() + attention_core_flops(size::attention, size::length)
                    : mixer_projection_flops<C>() + mixer_core_flops(size::mixer, size::length));
}

/// A whole evaluation of one picture.
template <config C>
constexpr double forward_flops() {
  double flops = stem_flops(sizes<C>::stem) + head_flops<C>();
  for (int i = 0; i < C.depth; ++i) flops += layer_flops<C>(i);
  return flops;
}

/// Forward and backward of one picture: backward has two products for each one forward, except that nothing wants the
/// picture's gradient. Of so many `frozen` layers from the stem on there is no backward.
template <config C>
constexpr double training_flops(int frozen = 0) {
  if (frozen == 0) return 3 * forward_flops<C>() - first_convolution_flops(sizes<C>::stem);
  double backward = 2 * head_flops<C>();
  for (int i = frozen - 1; i < C.depth; ++i) backward += 2 * layer_flops<C>(i);
  return forward_flops<C>() + backward;
}

static_assert(forward_flops<tiny>() > 6.60e9 && forward_flops<tiny>() < 6.62e9, "Tiny counts 6.6 GFLOP a picture");

}  // namespace dm2::bench
