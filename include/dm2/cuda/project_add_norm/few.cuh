/// @file
/// What lies between two cores of the trunk for few rows, in two kernels; the first one: projection and addition.
///
/// With few rows nothing is busy, and what counts is how often a thread waits for memory on the way through. Blocks are
/// small, one or two a multiprocessor, and ask for all they need at once: weights before the kernel ahead has ended,
/// straight into the registers of the warp that multiplies them, where no other warp of the block wants them.
///
/// A lane loads 16 bytes of a row, 8 columns of every 32: lane t of four takes columns 8 t to 8 t + 7 on both sides, of
/// which mma.sync's two steps of 16 take four each, an order of summation as good as its own.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>

#include <cstddef>

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

/// What a thread of the first kernel needs beside the product, asked for before it: its quads of four neighbouring columns
/// of what the product is added to, and one row's and half's sums of squares.
template <class Tr>
struct few_addends {
  float4 quad[Tr::quads_each];
  float squares[Tr::units == 0 ? 1 : Tr::units];
  int first, column;  ///< row and column of the block

  static __device__ int row_of(int i) { return i / (Tr::columns / 4); }
  static __device__ int column_of(int i) { return i % (Tr::columns / 4) * 4; }
  /// Where quad number i of the block lies; negative where there is none.
  [[nodiscard]] __device__ std::ptrdiff_t place(int i, int count) const {
    bool const valid = i < Tr::quads && first + row_of(i) < count;
    return valid ? std::ptrdiff_t(first + row_of(i)) * Tr::dim + column + column_of(i) : -1;
  }
  __device__ void load_bias(float const* bias) {
#pragma unroll
    for (int j = 0; j < Tr::quads_each; ++j) {
      quad[j] = float4{0, 0, 0, 0};
      if (bias != nullptr)
        quad[j] = *reinterpret_cast<float4 const*>(bias + column + column_of(int(threadIdx.x) + j * Tr::threads));
    }
  }
  __device__ void load(between_arguments<typename Tr::element> const& p) {
#pragma unroll
    for (int j = 0; j < Tr::quads_each; ++j) {
      std::ptrdiff_t const at = place(int(threadIdx.x) + j * Tr::threads, p.count);
      float4 const x = at < 0 ? float4{0, 0, 0, 0} : *reinterpret_cast<float4 const*>(p.before + at);
      quad[j].x += x.x, quad[j].y += x.y, quad[j].z += x.z, quad[j].w += x.w;
    }
    static_assert(2 * Tr::rows <= Tr::threads);
    if (Tr::units != 0 && int(threadIdx.x) < 2 * Tr::rows) {
      int const row = min(first + int(threadIdx.x) / 2, p.count - 1);
#pragma unroll
      for (int u = 0; u < Tr::units; ++u)
        squares[u] = p.squares[(std::ptrdiff_t(row) * 2 + int(threadIdx.x) % 2) * Tr::units + u];
    }
  }
  /// Each half's factor of the block's rows, 1 / root mean square, to rho [rows, 2]. A barrier must follow.
  __device__ void write_factors(float* rho) const {
    if (Tr::units == 0 || int(threadIdx.x) >= 2 * Tr::rows) return;
    float sum = 0;
#pragma unroll
    for (int u = 0; u < Tr::units; ++u) sum += squares[u];
    rho[threadIdx.x] = rsqrtf(sum * (2.f / Tr::inner) + 1e-5f);
  }
};

/// v + quad number i of the block's product, from every warp's part.
template <class Tr>
__device__ inline float4 few_sum(float const* parts, float const* rho, int i, float4 v) {
  int const row = few_addends<Tr>::row_of(i);
  float const* const at = parts + row * Tr::pitch + few_addends<Tr>::column_of(i);
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

/// The warp's part of g out^T for the block's rows from `first` on, `steps` times 32 columns of g from step `step` on, to
/// `part`.
template <class Tr>
__device__ inline void few_multiply(between_arguments<typename Tr::element> const& p, int first, int step, int steps,
                                    uint4 const (&w)[Tr::each][Tr::tiles], float* part) {
  int const lane = int(threadIdx.x) % 32, g = lane / 4;
  uint4 upper[Tr::row_tiles][Tr::each], lower[Tr::row_tiles][Tr::each];
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int i = 0; i < Tr::each; ++i) {
      int const row = first + 16 * m + g, at = i < steps ? step + i : 0;  // the weights of what is too much are zeros
      upper[m][i] = row_piece(p.g, min(row, p.count - 1), Tr::inner, at);
      lower[m][i] = row_piece(p.g, min(row + 8, p.count - 1), Tr::inner, at);
    }
  part += g * Tr::pitch + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m, part += 16 * Tr::pitch) {
    float acc[Tr::tiles][4] = {};
#pragma unroll
    for (int i = 0; i < Tr::each; ++i)
#pragma unroll
      for (int n = 0; n < Tr::tiles; ++n)
        multiply_pieces<typename Tr::element>(acc[n], acc[n], upper[m][i], lower[m][i], w[i][n]);
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n) {
      *reinterpret_cast<float2*>(part + 8 * n) = make_float2(acc[n][0], acc[n][1]);
      *reinterpret_cast<float2*>(part + 8 * Tr::pitch + 8 * n) = make_float2(acc[n][2], acc[n][3]);
    }
  }
}

/// after = before + g out^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_add_kernel(__grid_constant__ between_arguments<typename Tr::element> const p) {
  let_next_start();
  float* const parts = reinterpret_cast<float*>(dynamic_shared());
  float* const rho = parts + Tr::warps * Tr::rows * Tr::pitch;
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const step = Tr::steps * warp / Tr::warps, steps = Tr::steps * (warp + 1) / Tr::warps - step;
  few_addends<Tr> addends;
  addends.first = int(blockIdx.y) * Tr::rows, addends.column = int(blockIdx.x) * Tr::columns;
  uint4 w[Tr::each][Tr::tiles];
#pragma unroll
  for (int i = 0; i < Tr::each; ++i)
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n)
      w[i][n] =
          i < steps ? row_piece(p.out, addends.column + 8 * n + lane / 4, Tr::inner, step + i) : uint4{0, 0, 0, 0};
  addends.load_bias(p.out_bias);
  wait_for_previous();
  addends.load(p);
  few_multiply<Tr>(p, addends.first, step, steps, w, parts + warp * Tr::rows * Tr::pitch);
  addends.write_factors(rho);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < Tr::quads_each; ++j) {
    int const i = int(threadIdx.x) + j * Tr::threads;
    std::ptrdiff_t const at = addends.place(i, p.count);
    if (at >= 0) *reinterpret_cast<float4*>(p.after + at) = few_sum<Tr>(parts, rho, i, addends.quad[j]);
  }
}

}  // namespace dm2::cuda::detail
