/// @file
/// The mixer's two output projections as one matrix.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <cstddef>

namespace dm2::cpu {

/// merged = [forward | backward'] / 2, so that one product of g [B L, 2 Inner] gives the mean of both directions; the
/// half is exact. backward' is backward, or, in the published variant, backward reversed in both axes: that direction
/// reads and writes its channels in reverse.
///
/// Shapes   forward, backward [D, Inner]; merged [D, 2 Inner]. Writes merged (=).
template <mixer_variant V, class T, int D, int Inner>
void fold_output_projection(context<T>& ctx, block<T const, space::host, D, Inner> forward,
                            block<T const, space::host, D, Inner> backward,
                            block<T, space::host, D, 2 * Inner> merged) {
  ctx.for_range(D, 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      T* const out = merged.data + r * 2 * Inner;
      array(out, Inner) = array(forward.data + r * Inner, Inner) / T(2);
      if constexpr (V == mixer_variant::published)
        array(out + Inner, Inner) = array(backward.data + (D - 1 - r) * Inner, Inner).reverse() / T(2);
      else
        array(out + Inner, Inner) = array(backward.data + r * Inner, Inner) / T(2);
    }
  });
}

/// The gradient of fold_output_projection.
///
/// Shapes   dmerged [D, 2 Inner]; dforward, dbackward [D, Inner]. Writes dforward, dbackward (+=).
template <mixer_variant V, class T, int D, int Inner>
void fold_output_projection_backward(context<T>& ctx,
                                     std::type_identity_t<block<T const, space::host, D, 2 * Inner>> dmerged,
                                     block<T, space::host, D, Inner> dforward,
                                     block<T, space::host, D, Inner> dbackward) {
  ctx.for_range(D, 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      T const* const in = dmerged.data + r * 2 * Inner;
      array(dforward.data + r * Inner, Inner) += array(in, Inner) / T(2);
      if constexpr (V == mixer_variant::published)
        array(dbackward.data + (D - 1 - r) * Inner, Inner) += array(in + Inner, Inner).reverse() / T(2);
      else
        array(dbackward.data + r * Inner, Inner) += array(in + Inner, Inner) / T(2);
    }
  });
}

}  // namespace dm2::cpu
