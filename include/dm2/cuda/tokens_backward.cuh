/// @file
/// The gradient of patches to tokens.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// Numbers of the position embedding that a block sums, and parts of the batch, each by a warp.
inline constexpr int token_gradient_columns = 32, token_gradient_parts = 8;

/// dgrid = dx without the class token; dpos, dcls += the sums over the batch, in eighths of it that are added in order.
template <int D, int L, class T>
__global__ void __launch_bounds__(256)
    assemble_tokens_backward_kernel(float const* __restrict__ dx, T* __restrict__ dgrid, float* __restrict__ dcls,
                                    float* __restrict__ dpos, int batch) {
  constexpr int middle = (L - 1) / 2, parts = token_gradient_parts;
  __shared__ float sums[parts][token_gradient_columns];
  int const part = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const at = int(blockIdx.x) * token_gradient_columns + lane, token = at / D;
  float sum = 0;
  if (at < L * D) {
    int const patch = at - (token > middle ? D : 0);
#pragma unroll 8
    for (int b = batch * part / parts; b < batch * (part + 1) / parts; ++b) {
      float const g = dx[std::ptrdiff_t{b} * (L * D) + at];
      sum += g;
      if (token != middle) dgrid[std::ptrdiff_t{b} * ((L - 1) * D) + patch] = from_float<T>(g);
    }
  }
  sums[part][lane] = sum;
  __syncthreads();
  if (part != 0 || at >= L * D) return;
  for (int p = 1; p < parts; ++p) sum += sums[p][lane];
  dpos[at] += sum;
  if (token == middle) dcls[at - middle * D] += sum;
}

}  // namespace detail

/// The gradient of assemble_tokens.
///
/// Shapes   as assemble_tokens; dx float; dgrid of the context's elements.
/// Writes   dgrid (=); dcls, dpos (+=), asynchronously. dgrid does not overlap dx.
/// Throws   shape_error unless dgrid and dx hold the same number of whole pictures; nothing is written then.
template <precision P, int D, int L>
void assemble_tokens_backward(context<P>& ctx, std::type_identity_t<rows<float const, D, space::device>> dx,
                              std::type_identity_t<rows<element<P>, D, space::device>> dgrid,
                              block<float, space::device, 1, 1, D> dcls, block<float, space::device, 1, L, D> dpos) {
  std::size_t const batch = dx.count / L;
  require_extent("assemble_tokens_backward.dx rows", dx.count, batch * L);
  require_extent("assemble_tokens_backward.dgrid rows", dgrid.count, batch * (L - 1));
  if (!ctx.reserve(0) || batch == 0) return;
  detail::launch("assemble_tokens_backward", detail::assemble_tokens_backward_kernel<D, L, element<P>>,
                 {detail::blocks_for(std::size_t{L} * D, detail::token_gradient_columns), 256}, ctx.stream(), dx.data,
                 dgrid.data, dcls.data, dpos.data, int(batch));
}

}  // namespace dm2::cuda
