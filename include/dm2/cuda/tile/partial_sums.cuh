/// @file
/// Sums over rows in parts, added in a fixed order.
///
/// Each block writes its own part, and a second kernel adds them, so that two runs give the same bits.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// Parts at most: four blocks for each of an H100's 132 multiprocessors. On every device, so that the sums do not
/// depend on its size.
inline constexpr int most_parts = 528;

/// out(c, the sum of parts [count, width] over its rows), for each column c. A block takes 32 columns: warp w adds rows
/// w, w + Warps, ..., and then the warps' sums are added.
template <int Warps, class Out>
__global__ void __launch_bounds__(32 * Warps)
    add_parts_kernel(float const* __restrict__ parts, int count, int width, Out out) {
  __shared__ float sums[Warps][33];
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const column = int(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int k = warp; k < count; k += Warps) sum += parts[std::size_t(k) * std::size_t(width) + std::size_t(column)];
  }
  if constexpr (Warps == 1) {
    if (column < width) out(column, sum);
    return;
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if constexpr (Warps == 32) {  // a warp a column
    sum = sum_over_warp(sums[lane][warp]);
    int const own = int(blockIdx.x) * 32 + warp;
    if (lane == 0 && own < width) out(own, sum);
  } else {
    if (warp != 0 || column >= width) return;
    sum = 0;
#pragma unroll
    for (int w = 0; w < Warps; ++w) sum += sums[w][lane];
    out(column, sum);
  }
}

/// Launches it. Few warps for many columns, 32 of them for many parts of few columns.
template <int Warps, class Out>
void add_parts_to(char const* name, cudaStream_t stream, float const* parts, int count, int width, Out const& out) {
  launch(name, add_parts_kernel<Warps, Out>, {blocks_for(std::size_t(width), 32), 32 * Warps}, stream, parts, count,
         width, out);
}

/// What adds a sum to number c.
struct sum_adder {
  float* to;

  __device__ void operator()(int c, float sum) const { to[c] += sum; }
};

/// to[c] += the sum of parts [count, width] over its rows.
inline void add_parts(char const* name, cudaStream_t stream, float const* parts, int count, int width, float* to) {
  add_parts_to<32>(name, stream, parts, count, width, sum_adder{to});
}

/// Sums of the columns of a matrix: a lane takes N neighbouring columns, a block 32 lanes of them and 8 rows at a time.
template <class T, int N>
__global__ void __launch_bounds__(256, 4)
    column_sums_kernel(T const* __restrict__ x, std::size_t rows, int width, float* __restrict__ parts) {
  __shared__ float sums[8][32 * N];
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const first = int(blockIdx.x) * 32 * N, column = first + lane * N;
  float sum[N] = {};
  if (column < width) {
#pragma unroll 4
    for (std::size_t r = blockIdx.y * std::size_t{8} + std::size_t(warp); r < rows; r += gridDim.y * std::size_t{8}) {
      packet<T, N> const v = load_packet<N>(x + r * std::size_t(width) + std::size_t(column));
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += to_float(v.v[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[warp][lane * N + i] = sum[i];
  __syncthreads();
  for (int c = int(threadIdx.x); c < 32 * N && first + c < width; c += 256) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) total += sums[w][c];
    parts[blockIdx.y * std::size_t(width) + std::size_t(first + c)] = total;
  }
}

/// Columns that a lane takes at once where `at` and `width` allow it: 16 bytes.
template <class T>
int column_packet(T const* at, int width) {
  constexpr int n = 16 / int(sizeof(T));
  return width % n == 0 && packets_at<n>(at) ? n : 1;
}

/// In how many parts the rows of column sums are taken: at least 4 rows a warp.
inline int column_parts(std::size_t rows, int width, int packet) {
  int const across = (width + 32 * packet - 1) / (32 * packet);
  std::size_t const most = std::size_t(std::max(1, most_parts / across));
  return int(std::clamp<std::size_t>((rows + 31) / 32, 1, most));
}

/// Bytes of scratch that add_column_sums takes at most.
inline std::size_t column_sums_scratch(std::size_t rows, int width) {
  std::size_t const most = std::clamp<std::size_t>((rows + 31) / 32, 1, std::size_t{most_parts});
  return most * std::size_t(width) * sizeof(float) + arena::alignment;
}

template <int N, class T>
void launch_column_sums(char const* name, cudaStream_t stream, T const* x, std::size_t rows, int width, int parts,
                        float* sums) {
  dim3 const grid(blocks_for(std::size_t(width), 32 * N), unsigned(parts));
  launch(name, column_sums_kernel<T, N>, {grid, 256}, stream, x, rows, width, sums);
}

/// to[c] += the sum over r of x[r, c]; x [rows, width]. Takes column_sums_scratch(rows, width) from `scratch`.
template <class T>
void add_column_sums(char const* name, cudaStream_t stream, arena& scratch, T const* x, std::size_t rows, int width,
                     float* to) {
  arena_scope const scope{scratch};
  int const packet = column_packet(x, width), parts = column_parts(rows, width, packet);
  float* const sums = scratch.take<float>(std::size_t(parts) * std::size_t(width));
  if (packet == 1)
    launch_column_sums<1>(name, stream, x, rows, width, parts, sums);
  else
    launch_column_sums<16 / int(sizeof(T))>(name, stream, x, rows, width, parts, sums);
  add_parts(name, stream, sums, parts, width, to);
}

}  // namespace dm2::cuda::detail
