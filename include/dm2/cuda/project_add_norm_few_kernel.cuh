/// @file
/// What lies between two cores of the trunk for few rows, as two kernels: projection and addition; norm and projection.
///
/// With few rows nothing is busy, and what counts is how often a thread waits for memory on the way through. Blocks are
/// small, one or two a multiprocessor, and ask for all they need at once: weights before the kernel ahead has ended,
/// straight into the registers of the warp that multiplies them, where no other warp of the block wants them.
///
/// A lane loads 16 bytes of a row, 8 columns of every 32: lane t of four takes columns 8 t to 8 t + 7 on both sides, of
/// which mma.sync's two steps of 16 take four each, an order of summation as good as its own.
#pragma once

#include <dm2/cuda/early_start.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/packet.cuh>
#include <dm2/cuda/project_add_norm_kernel.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The smallest multiple of 8 from `least` on that divides `whole`, a multiple of 8 itself.
constexpr int divisor_from(int whole, int least) {
  int n = least < 8 ? 8 : (least + 7) / 8 * 8;
  while (n < whole && whole % n != 0) n += 8;
  return n;
}

/// Constants of the first kernel, as between_traits has them; RowTiles: tiles of 16 rows of a block. Its warps have all
/// of its rows and columns, and share K.
template <class T, int D, int K, int U, int RowTiles>
struct few_add_traits {
  using element = T;
  static constexpr int dim = D, inner = K, units = U, row_tiles = RowTiles, rows = 16 * RowTiles;
  static constexpr int columns = divisor_from(D, RowTiles == 1 ? D / 8 : D / 4), tiles = columns / 8;
  static constexpr int warps = RowTiles == 1 ? 12 : 8,
                       threads = 32 * warps;                                ///< an even number: half for each half of g
  static constexpr int steps = K / 32, each = (steps + warps - 1) / warps;  ///< of 32 columns of g; most of a warp
  static constexpr int pitch = columns % 16 == 0 ? columns + 8 : columns;   ///< floats, against bank conflicts
  static constexpr int quads = rows * columns / 4, quads_each = (quads + threads - 1) / threads;
  static constexpr std::size_t bytes = std::size_t(warps * rows * pitch + 2 * rows) * sizeof(float);
  static constexpr bool possible = is_half<T> && D % 8 == 0 && K % (U == 0 ? 32 : 64) == 0 &&
                                   4 * tiles * (each + row_tiles) <= (RowTiles == 1 ? 128 : 176);  ///< registers
};

/// A lane's 16 bytes of columns [32 step, 32 step + 32) of a row.
template <class T>
__device__ inline uint4 row_piece(T const* matrix, int row, int width, int step) {
  int const lane = int(threadIdx.x) % 32;
  return *reinterpret_cast<uint4 const*>(matrix + std::ptrdiff_t(row) * width + step * 32 + lane % 4 * 8);
}

/// c += a b over 32 columns, a from a lane's pieces of rows g and g + 8.
template <class T>
__device__ inline void multiply_pieces(float (&c)[4], float (&d)[4], uint4 const& upper, uint4 const& lower,
                                       uint4 const& b) {
  mma<T>(c, {upper.x, lower.x, upper.y, lower.y}, b.x, b.y);
  mma<T>(d, {upper.z, lower.z, upper.w, lower.w}, b.z, b.w);
}

/// Each half's factor of the block's rows, 1 / root mean square, to rho [rows, 2].
template <class Tr>
__device__ inline void few_row_factors(between_arguments<typename Tr::element> const& p, int first, float* rho) {
  for (int i = int(threadIdx.x); i < 2 * Tr::rows; i += Tr::threads) {
    int const row = min(first + i / 2, p.count - 1);
    float sum = 0;
#pragma unroll
    for (int u = 0; u < Tr::units; ++u) sum += p.squares[(std::ptrdiff_t(row) * 2 + i % 2) * Tr::units + u];
    rho[i] = rsqrtf(sum * (2.f / Tr::inner) + 1e-5f);
  }
}

/// The four columns of quad number i of the block's result, from every warp's part, added to v.
template <class Tr>
__device__ inline float4 few_sum(float const* parts, float const* rho, int i, float4 v) {
  int const row = i / (Tr::columns / 4), column = i % (Tr::columns / 4) * 4;
  float const* const at = parts + row * Tr::pitch + column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4 sum{0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < Tr::warps / 2; ++w) {
      float4 const x = *reinterpret_cast<float4 const*>(at + (half * Tr::warps / 2 + w) * Tr::rows * Tr::pitch);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    float const scale = Tr::units == 0 ? 1.f : rho[2 * row + half];
    v.x = fmaf(sum.x, scale, v.x), v.y = fmaf(sum.y, scale, v.y);
    v.z = fmaf(sum.z, scale, v.z), v.w = fmaf(sum.w, scale, v.w);
  }
  return v;
}

/// after = before + g out^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_add_kernel(__grid_constant__ between_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  let_next_start();
  float* const parts = reinterpret_cast<float*>(dynamic_shared());
  float* const rho = parts + Tr::warps * Tr::rows * Tr::pitch;
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, g = lane / 4;
  int const column = int(blockIdx.x) * Tr::columns, first = int(blockIdx.y) * Tr::rows;
  int const step = Tr::steps * warp / Tr::warps, steps = Tr::steps * (warp + 1) / Tr::warps - step;
  uint4 w[Tr::each][Tr::tiles];
#pragma unroll
  for (int i = 0; i < Tr::each; ++i)
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n)
      w[i][n] = i < steps ? row_piece(p.out, column + 8 * n + g, Tr::inner, step + i) : uint4{0, 0, 0, 0};
  wait_for_previous();
  float acc[Tr::row_tiles][Tr::tiles][4] = {};
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    int const upper_row = min(first + 16 * m + g, p.count - 1), lower_row = min(upper_row + 8, p.count - 1);
    uint4 upper[Tr::each], lower[Tr::each];
#pragma unroll
    for (int i = 0; i < Tr::each; ++i) {
      int const at = i < steps ? step + i : 0;  // its weights are zeros
      upper[i] = row_piece(p.g, upper_row, Tr::inner, at), lower[i] = row_piece(p.g, lower_row, Tr::inner, at);
    }
#pragma unroll
    for (int i = 0; i < Tr::each; ++i)
#pragma unroll
      for (int n = 0; n < Tr::tiles; ++n) multiply_pieces<T>(acc[m][n], acc[m][n], upper[i], lower[i], w[i][n]);
  }
  float4 v[Tr::quads_each];
  auto const place = [&](int i) {
    int const row = first + i / (Tr::columns / 4);
    return i < Tr::quads && row < p.count ? std::ptrdiff_t(row) * Tr::dim + column + i % (Tr::columns / 4) * 4 : -1;
  };
#pragma unroll
  for (int j = 0; j < Tr::quads_each; ++j) {
    std::ptrdiff_t const at = place(int(threadIdx.x) + j * Tr::threads);
    v[j] = at < 0 ? float4{0, 0, 0, 0} : *reinterpret_cast<float4 const*>(p.before + at);
  }
  if constexpr (Tr::units != 0) few_row_factors<Tr>(p, first, rho);
  float* const own = parts + warp * Tr::rows * Tr::pitch + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(own + (16 * m + 8 * half + g) * Tr::pitch + 8 * n) =
            make_float2(acc[m][n][2 * half], acc[m][n][2 * half + 1]);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < Tr::quads_each; ++j) {
    int const i = int(threadIdx.x) + j * Tr::threads;
    std::ptrdiff_t const at = place(i);
    if (at < 0) continue;
    float4 sum = few_sum<Tr>(parts, rho, i, v[j]);
    if (p.out_bias != nullptr) {
      float4 const b = *reinterpret_cast<float4 const*>(p.out_bias + column + i % (Tr::columns / 4) * 4);
      sum.x += b.x, sum.y += b.y, sum.z += b.z, sum.w += b.w;
    }
    *reinterpret_cast<float4*>(p.after + at) = sum;
  }
}

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

/// The block's rows, normed, to shared memory: half a warp a row. All threads; a barrier must follow.
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
      if (r < p.count && c < Tr::dim)
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
    if (p.rstd != nullptr && blockIdx.x == 0 && lane % 16 == 0 && r < p.count) p.rstd[r] = rstd;
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

/// y = RMSNorm(before) in^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_project_kernel(__grid_constant__ between_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  let_next_start();
  unsigned char* const normed = dynamic_shared();
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  int const first = int(blockIdx.y) * Tr::rows, column = (int(blockIdx.x) * Tr::warps + warp) * 16 * Tr::pairs;
  // Two tiles' columns are mixed so that a lane's four results of a row are neighbours.
  uint4 w[2 * Tr::pairs][Tr::steps];
  float4 norm[Tr::quads];
#pragma unroll
  for (int n = 0; n < 2 * Tr::pairs; ++n)
#pragma unroll
    for (int k = 0; k < Tr::steps; ++k)
      w[n][k] = row_piece(p.in, min(column + n / 2 * 16 + g / 2 * 4 + n % 2 * 2 + g % 2, Tr::wide - 1), Tr::dim, k);
#pragma unroll
  for (int j = 0; j < Tr::quads; ++j)
    norm[j] = *reinterpret_cast<float4 const*>(p.norm + min(j * 64 + lane % 16 * 4, Tr::dim - 4));
  wait_for_previous();
  few_norm<Tr>(p, first, norm, normed);
  __syncthreads();
  if (column >= Tr::wide) return;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    float acc[2 * Tr::pairs][Tr::chains][4] = {};
    unsigned char const* const from = normed + (16 * m + g) * Tr::pitch + t * 16;
#pragma unroll
    for (int k = 0; k < Tr::steps; ++k) {
      uint4 const upper = *reinterpret_cast<uint4 const*>(from + k * 64);
      uint4 const lower = *reinterpret_cast<uint4 const*>(from + 8 * Tr::pitch + k * 64);
#pragma unroll
      for (int n = 0; n < 2 * Tr::pairs; ++n)
        multiply_pieces<T>(acc[n][0], acc[n][Tr::chains - 1], upper, lower, w[n][k]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int pair = 0; pair < Tr::pairs; ++pair) {
        int const row = first + 16 * m + 8 * half + g, at = column + 16 * pair + 4 * t;
        if (row >= p.count || at >= Tr::wide) continue;
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i] = p.in_bias == nullptr ? 0.f : p.in_bias[at + i];
#pragma unroll
          for (int c = 0; c < Tr::chains; ++c) v[i] += acc[2 * pair + i / 2][c][2 * half + i % 2];
        }
        *reinterpret_cast<uint2*>(p.y + std::ptrdiff_t(row) * Tr::wide + at) =
            uint2{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])};
      }
  }
}

}  // namespace dm2::cuda::detail
