/// @file
/// The mixer's two output projections as one matrix.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <cstddef>

namespace dm2::cpu {

/// merged = [forward | backward'] / 2, so that one product of g [B L, 2 I] gives the mean of both directions; the half
/// is exact. backward' is backward, or, in the published variant, backward reversed in both axes: that direction reads
/// and writes its channels in reverse.
///
/// Shapes   forward, backward [D, I]; merged [D, 2 I]. Writes merged (=).
template <mixer_variant V, class T, int D, int I>
void fold_output_projection(context<T>& ctx, block<T const, space::host, D, I> forward,
                            block<T const, space::host, D, I> backward, block<T, space::host, D, 2 * I> merged) {
  ctx.for_range(D, 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      T* const out = merged.data + r * 2 * I;
      array(out, I) = array(forward.data + r * I, I) / T(2);
      if constexpr (V == mixer_variant::published)
        array(out + I, I) = array(backward.data + (D - 1 - r) * I, I).reverse() / T(2);
      else
        array(out + I, I) = array(backward.data + r * I, I) / T(2);
    }
  });
}

/// The gradient of fold_output_projection.
///
/// Shapes   dmerged [D, 2 I]; dforward, dbackward [D, I]. Writes dforward, dbackward (+=).
template <mixer_variant V, class T, int D, int I>
void fold_output_projection_backward(context<T>& ctx,
                                     std::type_identity_t<block<T const, space::host, D, 2 * I>> dmerged,
                                     block<T, space::host, D, I> dforward, block<T, space::host, D, I> dbackward) {
  ctx.for_range(D, 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      T const* const in = dmerged.data + r * 2 * I;
      array(dforward.data + r * I, I) += array(in, I) / T(2);
      if constexpr (V == mixer_variant::published)
        array(dbackward.data + (D - 1 - r) * I, I) += array(in + I, I).reverse() / T(2);
      else
        array(dbackward.data + r * I, I) += array(in + I, I) / T(2);
    }
  });
}

}  // namespace dm2::cpu
