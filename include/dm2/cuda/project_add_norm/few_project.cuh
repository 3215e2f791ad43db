/// @file
/// What lies between two cores of the trunk for few rows, in two kernels; the second one: norm and projection.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/project_add_norm/few.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Constants of the second kernel. A warp has 16 or 32 columns of y, and all of the block's rows, which the block norms for
/// itself.
template <class T, int D, int N, int RowTiles>
struct few_project_traits {
  using element = T;
  static constexpr int dim = D, wide = N, row_tiles = RowTiles, rows = 16 * RowTiles;
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr int pairs = RowTiles == 1 || D > 192 ? 1 : 2;  ///< of tiles of 8 columns, of a warp
  static constexpr int columns = 16 * pairs * warps, steps = D / 32, quads = (D + 63) / 64;
  static constexpr int pitch =
      D * 2 + (D % 64 == 0 ? 64 : 0);                   ///< bytes: 64 more than whole 128, against bank conflicts
  static constexpr int chains = RowTiles == 1 ? 2 : 1;  ///< sums of a result: shorter chains of products
  static constexpr std::size_t bytes = std::size_t(rows) * pitch;
  static constexpr bool possible = is_half<T> && D % 32 == 0 && N % 4 == 0 && pairs * steps <= 12 &&
                                   row_tiles * quads * 4 + 8 * pairs * steps <= 160;  ///< registers
};

/// The block's rows from `first` on, which may be negative, normed, to shared memory: half a warp a row. Zeros where there
/// is no row. All threads; a barrier must follow.
template <class Tr>
__device__ inline void few_norm(between_arguments<typename Tr::element> const& p, int first, float4 const* norm,
                                unsigned char* normed) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 16;  // of each tile of 16
  float4 v[Tr::row_tiles][Tr::quads];
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j) {
      int const r = first + 16 * m + row, c = j * 64 + lane % 16 * 4;
      v[m][j] = float4{0, 0, 0, 0};
      if (r >= 0 && r < p.count && c < Tr::dim)
        v[m][j] = *reinterpret_cast<float4 const*>(p.before + std::ptrdiff_t(r) * Tr::dim + c);
    }
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j)
      sum += v[m][j].x * v[m][j].x + v[m][j].y * v[m][j].y + v[m][j].z * v[m][j].z + v[m][j].w * v[m][j].w;
    float const rstd = rsqrtf(sum_over_half_warp(sum) * (1.f / Tr::dim) + p.eps);
    int const r = first + 16 * m + row;
    if (p.rstd != nullptr && blockIdx.x == 0 && lane % 16 == 0 && r >= 0 && r < p.count) p.rstd[r] = rstd;
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j) {
      int const c = j * 64 + lane % 16 * 4;
      if (c < Tr::dim)
        *reinterpret_cast<uint2*>(normed + (16 * m + row) * Tr::pitch + 2 * c) =
            uint2{pack<T>(v[m][j].x * rstd * norm[j].x, v[m][j].y * rstd * norm[j].y),
                  pack<T>(v[m][j].z * rstd * norm[j].z, v[m][j].w * rstd * norm[j].w)};
    }
  }
}

/// What a lane needs of parameters: its warp's columns of y are those from `column` on. Two tiles' columns are mixed so
/// that a lane's four results of a row are neighbours.
template <class Tr>
struct few_project_weights {
  uint4 w[2 * Tr::pairs][Tr::steps];
  float4 norm[Tr::quads], bias[Tr::pairs];

  __device__ few_project_weights(between_arguments<typename Tr::element> const& p, int column) {
    int const lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < 2 * Tr::pairs; ++n)
#pragma unroll
      for (int k = 0; k < Tr::steps; ++k)
        w[n][k] = row_piece(p.in, min(column + n / 2 * 16 + g / 2 * 4 + n % 2 * 2 + g % 2, Tr::wide - 1), Tr::dim, k);
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j)
      norm[j] = *reinterpret_cast<float4 const*>(p.norm + min(j * 64 + lane % 16 * 4, Tr::dim - 4));
#pragma unroll
    for (int n = 0; n < Tr::pairs; ++n) {
      bias[n] = float4{0, 0, 0, 0};
      if (p.in_bias != nullptr)
        bias[n] = *reinterpret_cast<float4 const*>(p.in_bias + min(column + 16 * n + 4 * t, Tr::wide - 4));
    }
  }
};

/// y of a tile of 16 rows that begins at `normed`: the lane's four columns of each pair of tiles, rounded, in rows g and
/// g + 8.
template <class Tr>
__device__ inline void few_project_tile(uint2 (&y)[Tr::pairs][2], few_project_weights<Tr> const& in,
                                        unsigned char const* normed) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32;
  float acc[2 * Tr::pairs][Tr::chains][4] = {};
  unsigned char const* const from = normed + lane / 4 * Tr::pitch + lane % 4 * 16;
#pragma unroll
  for (int k = 0; k < Tr::steps; ++k) {
    uint4 const upper = *reinterpret_cast<uint4 const*>(from + k * 64);
    uint4 const lower = *reinterpret_cast<uint4 const*>(from + 8 * Tr::pitch + k * 64);
#pragma unroll
    for (int n = 0; n < 2 * Tr::pairs; ++n)
      multiply_pieces<T>(acc[n][0], acc[n][Tr::chains - 1], upper, lower, in.w[n][k]);
  }
#pragma unroll
  for (int pair = 0; pair < Tr::pairs; ++pair)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[4]{in.bias[pair].x, in.bias[pair].y, in.bias[pair].z, in.bias[pair].w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < Tr::chains; ++c) v[i] += acc[2 * pair + i / 2][c][2 * half + i % 2];
      y[pair][half] = uint2{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])};
    }
}

/// y = RMSNorm(before) in^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_project_kernel(__grid_constant__ between_arguments<typename Tr::element> const p) {
  let_next_start();
  unsigned char* const normed = dynamic_shared();
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const first = int(blockIdx.y) * Tr::rows, column = (int(blockIdx.x) * Tr::warps + warp) * 16 * Tr::pairs;
  few_project_weights<Tr> const in{p, column};
  wait_for_previous();
  few_norm<Tr>(p, first, in.norm, normed);
  __syncthreads();
  if (column >= Tr::wide) return;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    uint2 y[Tr::pairs][2];
    few_project_tile<Tr>(y, in, normed + 16 * m * Tr::pitch);
#pragma unroll
    for (int pair = 0; pair < Tr::pairs; ++pair)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const row = first + 16 * m + 8 * half + lane / 4, at = column + 16 * pair + lane % 4 * 4;
        if (row < p.count && at < Tr::wide)
          *reinterpret_cast<uint2*>(p.y + std::ptrdiff_t(row) * Tr::wide + at) = y[pair][half];
      }
  }
}

}  // namespace dm2::cuda::detail
