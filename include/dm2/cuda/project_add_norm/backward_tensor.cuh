/// @file
/// The gradients between two cores of the trunk as one kernel: through the input projection, the norm, the residual
/// addition and the output projection of a tile of rows, whose normed rows' gradient never leaves the block.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/backward_tile.cuh>
#include <dm2/cuda/project_add_norm/tile.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

template <class Tr>
__device__ inline void load_out(between_backward_arguments<typename Tr::element> const& p,
                                between_backward_memory<Tr> const& at, int j) {
  if (j < Tr::chunks)
    copy_rows<Tr::chunk, Tr::chunk_pitch, Tr::dim, Tr::inner, Tr::threads, false>(at.slot(j), p.out + j * Tr::chunk, 0,
                                                                                  Tr::dim);
}

/// Columns [64 step, 64 step + 64) of the block's rows of dy; zeros past the last column and row.
template <class Tr>
__device__ inline void load_dy(between_backward_arguments<typename Tr::element> const& p, std::uint32_t to, int step) {
  int const row = int(threadIdx.x) / 8, column = step * Tr::depth + int(threadIdx.x) % 8 * 8;
  int const first = int(blockIdx.x) * Tr::rows + row;
  bool const inside = Tr::wide % Tr::depth == 0 || column < Tr::wide;
  to += std::uint32_t(row * Tr::depth_pitch + int(threadIdx.x) % 8 * 16);
#pragma unroll
  for (int r = 0; r < Tr::rows; r += Tr::threads / 8)
    copy_async(to + std::uint32_t(r * Tr::depth_pitch), p.dy + std::size_t(first + r) * Tr::wide + column,
               inside && first + r < p.count);
}

/// acc = dy in for the block's rows. Ends with the first chunk of the next weights under way.
template <class Tr>
__device__ inline void normed_gradient(float (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                       between_backward_arguments<typename Tr::element> const& p,
                                       between_backward_memory<Tr> const& at) {
  using T = typename Tr::element;
  between_backward_place<Tr> const place;
  auto const load = [&](int step) {
    if (step < Tr::steps) {
      std::uint32_t const to = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
      load_dy<Tr>(p, to, step);
      copy_rows<Tr::dim, Tr::dim_pitch, Tr::depth, Tr::dim, Tr::threads, false>(
          to + std::uint32_t(Tr::rows * Tr::depth_pitch), p.in, step * Tr::depth, Tr::wide);
    } else if (step == Tr::steps) {
      load_out<Tr>(p, at, 0);
    }
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < Tr::stages - 1; ++s) load(s);
  std::uint32_t const a_lane =
      std::uint32_t((place.wm * Tr::row_tiles * 16 + place.lane % 16) * Tr::depth_pitch + place.lane / 16 * 16);
  std::uint32_t const w_lane =
      std::uint32_t(Tr::rows * Tr::depth_pitch + place.wn * Tr::dim) + down_lane(place.lane, Tr::dim_pitch);
  for (int step = 0; step < Tr::steps; ++step) {
    wait_copies<Tr::stages - 2>();
    __syncthreads();
    load(step + Tr::stages - 1);
    std::uint32_t const stage = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
    streamed_rows<Tr::row_tiles, Tr::depth / 16> rows{stage + a_lane, Tr::depth_pitch};
    multiply_down<T, Tr::row_tiles, Tr::dim_groups, Tr::depth / 16>(acc, rows, stage + w_lane, Tr::dim_pitch);
  }
}

/// Sums of acc x rstd: over rows, to column_sums, and times the norm's weight over columns, to row_sums.
template <class Tr>
__device__ inline void norm_sums(float const (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                 between_backward_arguments<typename Tr::element> const& p,
                                 between_backward_memory<Tr> const& at) {
  between_backward_place<Tr> const place;
  float columns[2 * Tr::dim_groups][2] = {};
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    bool const inside = place.first + row < p.count;
    float const rstd = inside ? p.rstd[place.first + row] : 0.f;
    float const* const x = p.residual + std::size_t(place.first + row) * Tr::dim + place.column;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2 * Tr::dim_groups; ++n) {
      float2 v{0, 0};
      if (inside) v = *reinterpret_cast<float2 const*>(x + n * 8);
      float2 const w = *reinterpret_cast<float2 const*>(p.norm + place.column + n * 8);
      float const low = acc[m][n][half * 2] * (v.x * rstd), high = acc[m][n][half * 2 + 1] * (v.y * rstd);
      columns[n][0] += low, columns[n][1] += high;
      sum = fmaf(low, w.x, fmaf(high, w.y, sum));
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (place.lane % 4 == 0) at.row_sums[place.wn * Tr::rows + row] = sum;
  });
#pragma unroll
  for (int n = 0; n < 2 * Tr::dim_groups; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = columns[n][i];
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
      if (place.lane < 4) at.column_sums[place.wm * Tr::dim + place.column + n * 8 + i] = sum;
    }
}

/// The residual's gradient with the norm's, to memory, and both tiles that products read, to shared memory.
template <class Tr>
__device__ inline void residual_gradient(float const (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                         between_backward_arguments<typename Tr::element> const& p,
                                         between_backward_memory<Tr> const& at) {
  using T = typename Tr::element;
  between_backward_place<Tr> const place;
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    bool const inside = place.first + row < p.count;
    float const rstd = inside ? p.rstd[place.first + row] : 0.f;
    float const mean = (at.row_sums[row] + at.row_sums[Tr::rows + row]) * (1.f / Tr::dim);
    std::size_t const from = std::size_t(place.first + row) * Tr::dim + std::size_t(place.column);
    int const to = row * Tr::dim_pitch + place.column * 2;
#pragma unroll
    for (int n = 0; n < 2 * Tr::dim_groups; ++n) {
      float2 x{0, 0}, d{0, 0};
      if (inside) {
        x = *reinterpret_cast<float2 const*>(p.residual + from + n * 8);
        d = *reinterpret_cast<float2 const*>(p.dresidual + from + n * 8);
      }
      float2 const w = *reinterpret_cast<float2 const*>(p.norm + place.column + n * 8);
      x.x *= rstd, x.y *= rstd;
      d.x = fmaf(rstd, fmaf(-mean, x.x, acc[m][n][half * 2] * w.x), d.x);
      d.y = fmaf(rstd, fmaf(-mean, x.y, acc[m][n][half * 2 + 1] * w.y), d.y);
      if (inside) *reinterpret_cast<float2*>(p.dresidual + from + n * 8) = d;
      *reinterpret_cast<std::uint32_t*>(at.rounded + to + n * 16) = pack<T>(d.x, d.y);
      *reinterpret_cast<std::uint32_t*>(at.normed + to + n * 16) = pack<T>(x.x * w.x, x.y * w.y);
    }
  });
}

/// A tile [rows, D] from shared memory to the block's rows of a matrix.
template <class Tr>
__device__ inline void write_tile(unsigned char const* tile, typename Tr::element* to, int count) {
  constexpr int pieces = Tr::dim / 8;
  int const first = int(blockIdx.x) * Tr::rows;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < Tr::rows * pieces; i += Tr::threads) {
    int const row = i / pieces, piece = i % pieces;
    if (first + row < count)
      *reinterpret_cast<uint4*>(to + std::size_t(first + row) * Tr::dim + piece * 8) =
          *reinterpret_cast<uint4 const*>(tile + row * Tr::dim_pitch + piece * 16);
  }
}

/// dg = the rounded gradient out, chunk after chunk of dg's columns. Chunks 0 and 1 are under way.
template <class Tr>
__device__ inline void inner_gradient(between_backward_arguments<typename Tr::element> const& p,
                                      between_backward_memory<Tr> const& at) {
  using T = typename Tr::element;
  constexpr int M = Tr::row_tiles, G = Tr::chunk_groups, depth = Tr::dim / 16;
  between_backward_place<Tr> const place;
  std::uint32_t const a_at =
      shared_address(at.rounded) +
      std::uint32_t((place.wm * M * 16 + place.lane % 16) * Tr::dim_pitch + place.lane / 16 * 16);
  std::uint32_t kept[depth][M][4];
#pragma unroll
  for (int k = 0; k < depth; ++k)
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrix(kept[k][m], a_at + std::uint32_t(m * 16 * Tr::dim_pitch + k * 32));
  std::uint32_t const w_lane = std::uint32_t(place.wn * G * 32) + down_lane(place.lane, Tr::chunk_pitch);
  for (int j = 0; j < Tr::chunks; ++j) {
    wait_copies<1>();
    __syncthreads();
    load_out<Tr>(p, at, j + 2);
    commit_copies();
    float acc[M][2 * G][4] = {};
    multiply_down<T, M, G, depth>(
        acc, [&](int k) -> std::uint32_t const(&)[M][4] { return kept[k]; }, at.slot(j) + w_lane, Tr::chunk_pitch);
    for_each_row<M>([&](int m, int half) {
      int const row = place.first + place.row(m, half);
      T* const to = p.dg + std::size_t(row) * Tr::inner + j * Tr::chunk + place.wn * G * 16 + place.lane % 4 * 4;
#pragma unroll
      for (int n = 0; n < G; ++n) {
        uint2 const v = four_neighbours(pack<T>(acc[m][2 * n][half * 2], acc[m][2 * n][half * 2 + 1]),
                                        pack<T>(acc[m][2 * n + 1][half * 2], acc[m][2 * n + 1][half * 2 + 1]));
        if (row < p.count) *reinterpret_cast<uint2*>(to + n * 16) = v;
      }
    });
  }
}

/// Grid: tiles of rows.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    between_backward_kernel(__grid_constant__ between_backward_arguments<typename Tr::element> const p) {
  between_backward_memory<Tr> const at{dynamic_shared()};
  {
    float acc[Tr::row_tiles][2 * Tr::dim_groups][4] = {};
    normed_gradient<Tr>(acc, p, at);
    __syncthreads();  // its operands' place is free
    load_out<Tr>(p, at, 1);
    commit_copies();
    norm_sums<Tr>(acc, p, at);
    __syncthreads();
    residual_gradient<Tr>(acc, p, at);
  }
  for (int c = int(threadIdx.x); c < Tr::dim; c += Tr::threads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < Tr::warps_m; ++w) sum += at.column_sums[w * Tr::dim + c];
    p.parts[std::size_t{blockIdx.x} * Tr::dim + std::size_t(c)] = sum;
  }
  __syncthreads();
  write_tile<Tr>(at.normed, p.normed, p.count);
  write_tile<Tr>(at.rounded, p.rounded, p.count);
  inner_gradient<Tr>(p, at);
}

}  // namespace dm2::cuda::detail
