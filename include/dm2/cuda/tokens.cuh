/// @file
/// Patches to tokens: the class token in the middle, and the position embedding.
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

/// A thread an element of x.
template <int D, int L, class T>
__global__ void __launch_bounds__(256)
    assemble_tokens_kernel(T const* __restrict__ grid, float const* __restrict__ cls, float const* __restrict__ pos,
                           float* __restrict__ x, std::ptrdiff_t size) {
  constexpr int middle = (L - 1) / 2;
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= size) return;
  std::ptrdiff_t const b = i / (L * D);
  int const at = int(i % (L * D)), token = at / D;
  int const patch = at - (token > middle ? D : 0);
  x[i] = (token == middle ? cls[at - middle * D] : to_float(grid[b * ((L - 1) * D) + patch])) + pos[at];
}

}  // namespace detail

/// x = [patches before the middle, class token, the rest] + position embedding.
///
/// Shapes   grid [B (L - 1), D], float or of 16 bits; cls [1, 1, D]; pos [1, L, D]; x [B L, D]; the class token is
///          token (L - 1) / 2.
/// Writes   x (=), asynchronously.
/// Throws   shape_error unless grid and x hold the same number of whole pictures; nothing is written then.
template <precision P, int D, int L, class T = float>
void assemble_tokens(context<P>& ctx, rows<T, D, space::device> grid, block<float const, space::device, 1, 1, D> cls,
                     block<float const, space::device, 1, L, D> pos,
                     std::type_identity_t<rows<float, D, space::device>> x) {
  std::size_t const batch = x.count / L;
  require_extent("assemble_tokens.x rows", x.count, batch * L);
  require_extent("assemble_tokens.grid rows", grid.count, batch * (L - 1));
  if (!ctx.reserve(0) || x.count == 0) return;
  detail::launch("assemble_tokens", detail::assemble_tokens_kernel<D, L, std::remove_const_t<T>>,
                 {detail::blocks_for(x.size(), 256), 256}, ctx.stream(), grid.data, cls.data, pos.data, x.data,
                 x.size());
}

}  // namespace dm2::cuda
