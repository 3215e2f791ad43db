/// @file
/// Patches to tokens, their gradient, and MixToken on the device.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
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

namespace detail {

/// The box as a launch has it.
struct given_box {
  mix_box box;
  __device__ mix_box operator()() const { return box; }
};
/// The box as device memory holds it when the kernel runs.
struct stored_box {
  mix_box const* box;
  __device__ mix_box operator()() const { return *box; }
};

/// Exchanges packets of N numbers of patch (blockIdx.x, blockIdx.y) in samples b and batch - 1 - b, if it is inside the
/// box. A row of C numbers is C / N packets; the last C % N numbers go one by one. Blocks in z share the pairs.
template <int N, class Box, class T>
__global__ void __launch_bounds__(256) mix_tokens_kernel(T* grid, int batch, int width, int channels, Box where) {
  mix_box const box = where();
  int const column = int(blockIdx.x), row = int(blockIdx.y), tokens = int(gridDim.x * gridDim.y);
  if (row < box.row0 || row >= box.row1 || column < box.col0 || column >= box.col1) return;
  int const packets = channels / N;
  std::ptrdiff_t const token = row * width + column;
  for (int i = int(blockIdx.z) * 256 + int(threadIdx.x); i < batch / 2 * packets; i += int(gridDim.z) * 256) {
    std::ptrdiff_t const b = i / packets, c = std::ptrdiff_t{i % packets} * N;
    T* const one = grid + (b * tokens + token) * channels + c;
    T* const other = grid + ((batch - 1 - b) * tokens + token) * channels + c;
    packet<T, N> const first = load_packet<N>(one), second = load_packet<N>(other);
    store_packet(one, second);
    store_packet(other, first);
  }
}

/// The launch for a grid of whole pictures. The packets are the largest of 16 bytes at most that rows and `grid` allow.
template <int N, class Box, class T>
void launch_mix_tokens(cudaStream_t stream, T* grid, int batch, int height, int width, int channels, Box const& box) {
  if constexpr (N > 1)
    if (channels % N != 0 || !packets_at<N>(grid)) {
      launch_mix_tokens<N / 2>(stream, grid, batch, height, width, channels, box);
      return;
    }
  unsigned const shares = std::clamp(blocks_for(std::size_t(batch / 2) * std::size_t(channels / N), 1024), 1u, 64u);
  launch("mix_tokens", mix_tokens_kernel<N, Box, T>, {dim3(unsigned(width), unsigned(height), shares), 256}, stream,
         grid, batch, width, channels, box);
}

}  // namespace detail

/// MixToken (Jiang et al. 2021, arXiv 2104.10858): inside the box, sample b and its partner B - 1 - b change places.
/// The same call mixes, mixes back, and is its own gradient.
///
/// Shapes   grid [B height width, C] of any numbers; box on the device, and read when the operation runs, so that a
///          captured graph takes a new box at every launch. What of it leaves the grid is not there.
/// Writes   grid, in place, asynchronously. Saves nothing.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <precision P, class T, int C>
void mix_tokens(context<P>& ctx, rows<T, C, space::device> grid, int height, int width, mix_box const* box) {
  int const batch = require_mix_box(grid.count, height, width, {});
  if (!ctx.reserve(0) || batch < 2) return;
  detail::launch_mix_tokens<int(16 / sizeof(T))>(ctx.stream(), grid.data, batch, height, width, C,
                                                 detail::stored_box{box});
}

/// The same with the box that the call has.
///
/// Throws   shape_error if grid's rows are not whole pictures or the box leaves the grid; nothing is written then.
template <precision P, class T, int C>
void mix_tokens(context<P>& ctx, rows<T, C, space::device> grid, int height, int width, mix_box box) {
  int const batch = require_mix_box(grid.count, height, width, box);
  if (!ctx.reserve(0) || batch < 2 || box.area() == 0) return;
  detail::launch_mix_tokens<int(16 / sizeof(T))>(ctx.stream(), grid.data, batch, height, width, C,
                                                 detail::given_box{box});
}

}  // namespace dm2::cuda
