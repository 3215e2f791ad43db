/// @file
/// The mixer's two output projections as one matrix, and their gradient.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// A thread an entry of merged [rows, 2 cols].
template <bool Reversed, class U>
__global__ void fold_output_projection_kernel(float const* forward, float const* backward, U* merged, int rows,
                                              int cols) {
  std::size_t const at = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= std::size_t(rows) * std::size_t(2 * cols)) return;
  int const r = int(at / std::size_t(2 * cols)), c = int(at % std::size_t(2 * cols));
  int const row = c < cols || !Reversed ? r : rows - 1 - r;
  int const col = c < cols ? c : Reversed ? 2 * cols - 1 - c : c - cols;
  merged[at] = from_float<U>(0.5f * (c < cols ? forward : backward)[std::size_t(row) * std::size_t(cols) + col]);
}

}  // namespace detail

/// merged = [forward | backward'] / 2, so that one product of g [B L, 2 I] gives the mean of both directions; the half
/// is exact. backward' is backward, or, in the published variant, backward reversed in both axes: that direction reads
/// and writes its channels in reverse.
///
/// Shapes   forward, backward [D, I]; merged [D, 2 I], float or of the context's element. Writes merged (=).
/// Stream   the context's; no synchronisation.
template <mixer_variant V, precision P, int D, int I, class U>
void fold_output_projection(context<P>& ctx, block<float const, space::device, D, I> forward,
                            block<float const, space::device, D, I> backward,
                            block<U, space::device, D, 2 * I> merged) {
  static_assert(std::is_same_v<U, element<P>> || std::is_same_v<U, float>,
                "dm2::cuda::fold_output_projection: merged must be of the context's element, or float");
  if (!ctx.reserve(0)) return;
  detail::launch("fold_output_projection", detail::fold_output_projection_kernel<V == mixer_variant::published, U>,
                 {detail::blocks_for(merged.size, 256), 256}, ctx.stream(), forward.data, backward.data, merged.data, D,
                 I);
}

namespace detail {

/// A thread an entry of dmerged [rows, 2 cols], and the one entry of a gradient that it belongs to.
template <bool Reversed, class T>
__global__ void __launch_bounds__(256)
    fold_output_projection_backward_kernel(T const* __restrict__ dmerged, T* dforward, T* dbackward, int rows,
                                           int cols) {
  std::size_t const at = std::size_t{blockIdx.x} * 256 + threadIdx.x;
  if (at >= std::size_t(rows) * std::size_t(2 * cols)) return;
  int const r = int(at / std::size_t(2 * cols)), c = int(at % std::size_t(2 * cols));
  int const row = c < cols || !Reversed ? r : rows - 1 - r;
  int const col = c < cols ? c : Reversed ? 2 * cols - 1 - c : c - cols;
  T& to = (c < cols ? dforward : dbackward)[std::size_t(row) * std::size_t(cols) + std::size_t(col)];
  to += T(0.5) * dmerged[at];
}

}  // namespace detail

/// The gradient of fold_output_projection.
///
/// Shapes   dmerged [D, 2 I]; dforward, dbackward [D, I]. Writes dforward, dbackward (+=).
/// Stream   the context's; no synchronisation.
template <mixer_variant V, precision P, int D, int I>
void fold_output_projection_backward(context<P>& ctx,
                                     std::type_identity_t<block<float const, space::device, D, 2 * I>> dmerged,
                                     block<float, space::device, D, I> dforward,
                                     block<float, space::device, D, I> dbackward) {
  if (!ctx.reserve(0)) return;
  detail::launch("fold_output_projection_backward",
                 detail::fold_output_projection_backward_kernel<V == mixer_variant::published, float>,
                 {detail::blocks_for(dmerged.size, 256), 256}, ctx.stream(), dmerged.data, dforward.data,
                 dbackward.data, D, I);
}

}  // namespace dm2::cuda
