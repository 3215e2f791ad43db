/// @file
/// Bytes that each operation of an evaluation has to move: its operands, results and weights, each once, however it is
/// done. What lies between the kernels of one operation, such as the stem's planes, does not count.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/model/config.hpp>

namespace dm2::bench {

/// What a core reads and writes a token.
struct core_widths {
  double wide, inner;
};
template <config C>
constexpr core_widths widths_of(int layer) {
  using size = sizes<C>;
  if (C.attn_layers.contains(layer)) return {3. * size::attn_width, size::attn_width};
  return {size::projected, 2. * size::d_inner};
}

/// Bytes of the operations of configuration C for `batch` pictures of bytes, with activations and matrices of
/// `element` bytes and a residual stream of 4.
template <config C>
struct evaluation_bytes {
  static_assert(C.mlp_dim == 0, "dm2::bench::evaluation_bytes: without MLP blocks");
  double batch, element = 2;

  [[nodiscard]] constexpr double rows() const { return batch * sizes<C>::length; }
  [[nodiscard]] constexpr double stem() const {
    constexpr stem_shape s = sizes<C>::stem;
    double const side = s.patch / 2, weights = s.hidden * (49. * s.channels + 18. * s.hidden + side * side * s.dim);
    return batch * sizes<C>::pixels + 4 * (rows() + sizes<C>::length) * C.dim + element * weights;
  }
  /// The first norm and projection.
  [[nodiscard]] constexpr double first(core_widths w) const {
    return rows() * (4 * C.dim + element * w.wide) + element * w.wide * C.dim;
  }
  [[nodiscard]] constexpr double core(core_widths w) const { return rows() * element * (w.wide + w.inner); }
  /// Output projection, addition to the residual stream, norm, the next input projection.
  [[nodiscard]] constexpr double project_add_norm(core_widths w, core_widths next) const {
    return rows() * (element * (w.inner + next.wide) + 8 * C.dim) + element * C.dim * (w.inner + next.wide);
  }
  /// Output projection, addition, the last norm.
  [[nodiscard]] constexpr double last(core_widths w) const {
    return rows() * (element * (w.inner + C.dim) + 4 * C.dim) + element * C.dim * w.inner;
  }
  [[nodiscard]] constexpr double heads() const {
    return element * C.dim * (rows() + 2. * C.classes) + 4 * batch * C.classes;
  }
  /// All of them.
  [[nodiscard]] constexpr double total() const {
    double bytes = stem() + first(widths_of<C>(0)) + last(widths_of<C>(C.depth - 1)) + heads();
    for (int i = 0; i < C.depth; ++i) bytes += core(widths_of<C>(i));
    for (int i = 0; i + 1 < C.depth; ++i) bytes += project_add_norm(widths_of<C>(i), widths_of<C>(i + 1));
    return bytes;
  }
};

/// The scan alone: x, y, B, C of `element` bytes, dt of 4.
constexpr double scan_bytes(mixer_shape m, double tokens, double element = 2) {
  return tokens * (element * (2 * m.d_inner() + 2 * m.groups * m.d_state) + 4 * m.heads);
}

}  // namespace dm2::bench
