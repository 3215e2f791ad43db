/// @file
/// MixToken on the device, its box given with the call or read from device memory.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <string>

namespace dm2::cuda {
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

/// Pictures in a grid; throws shape_error unless they are whole.
inline int mixed_pictures(std::size_t count, int height, int width) {
  std::size_t const tokens = std::size_t(height) * std::size_t(width);
  if (tokens == 0 || count % tokens != 0)
    throw shape_error{"mix_tokens.grid: got " + std::to_string(count) + " rows, expected a multiple of the patches " +
                      std::to_string(height) + " x " + std::to_string(width)};
  return int(count / tokens);
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
  int const batch = detail::mixed_pictures(grid.count, height, width);
  if (!ctx.reserve(0) || batch < 2) return;
  detail::launch_mix_tokens<int(16 / sizeof(T))>(ctx.stream(), grid.data, batch, height, width, C,
                                                 detail::stored_box{box});
}

/// The same with the box that the call has.
///
/// Throws   shape_error if grid's rows are not whole pictures or the box leaves the grid; nothing is written then.
template <precision P, class T, int C>
void mix_tokens(context<P>& ctx, rows<T, C, space::device> grid, int height, int width, mix_box box) {
  int const batch = detail::mixed_pictures(grid.count, height, width);
  if (box.row0 < 0 || box.row1 > height || box.col0 < 0 || box.col1 > width)
    throw shape_error{"mix_tokens.box: got rows [" + std::to_string(box.row0) + ", " + std::to_string(box.row1) +
                      "), columns [" + std::to_string(box.col0) + ", " + std::to_string(box.col1) +
                      "), expected it inside " + std::to_string(height) + " x " + std::to_string(width)};
  if (!ctx.reserve(0) || batch < 2 || box.area() == 0) return;
  detail::launch_mix_tokens<int(16 / sizeof(T))>(ctx.stream(), grid.data, batch, height, width, C,
                                                 detail::given_box{box});
}

}  // namespace dm2::cuda
