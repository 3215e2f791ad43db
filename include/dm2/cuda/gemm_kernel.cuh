/// @file
/// A product for extents and addresses that the library does not take, and what surrounds the library's.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// Tiles of own_product: 64 x 64 of c, 16 of k at a time, 4 x 4 numbers a thread.
inline constexpr int product_tile = 64, product_depth = 16, product_threads = 256;

/// A factor in memory.
template <class T>
struct product_factor {
  T const* data;        ///< element (0, 0)
  std::int64_t stride;  ///< elements from row to row
};

/// Extents of c and of the sums.
struct product_extents {
  std::int64_t m, n, k;
};

/// tile[d][i] = element (first + i, d0 + d) of a factor [extent, depth], zeros outside it. ByRow: d runs along memory.
template <bool ByRow, class T>
__device__ inline void load_product_tile(product_factor<T> f, std::int64_t first, std::int64_t extent, std::int64_t d0,
                                         std::int64_t depth, float (&tile)[product_depth][product_tile + 1]) {
  for (int at = int(threadIdx.x); at < product_tile * product_depth; at += product_threads) {
    int const i = ByRow ? at / product_depth : at % product_tile;
    int const d = ByRow ? at % product_depth : at / product_tile;
    std::int64_t const row = first + i, inner = d0 + d;
    bool const inside = row < extent && inner < depth;
    tile[d][i] = inside ? to_float(f.data[ByRow ? row * f.stride + inner : inner * f.stride + row]) : 0.f;
  }
}

/// c = op(a) op(b) + addend + bias in float; either of the latter may be null, and the addend may be c.
template <bool TransposeA, bool TransposeB, class T, class U>
__global__ void __launch_bounds__(product_threads)
    product_kernel(product_factor<T> a, product_factor<T> b, U* c, U const* addend, float const* bias,
                   std::int64_t stride, product_extents e) {
  __shared__ float as[product_depth][product_tile + 1], bs[product_depth][product_tile + 1];
  std::int64_t const row0 = std::int64_t{blockIdx.x} * product_tile, col0 = std::int64_t{blockIdx.y} * product_tile;
  int const ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
  float sums[4][4] = {};
  for (std::int64_t d0 = 0; d0 < e.k; d0 += product_depth) {
    load_product_tile<!TransposeA>(a, row0, e.m, d0, e.k, as);
    load_product_tile<TransposeB>(b, col0, e.n, d0, e.k, bs);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < product_depth; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(as[d][ty * 4 + i], bs[d][tx + 16 * j], sums[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::int64_t const row = row0 + ty * 4 + i, col = col0 + tx + 16 * j;
      if (row >= e.m || col >= e.n) continue;
      float sum = sums[i][j];
      if (addend != nullptr) sum += to_float(addend[row * stride + col]);
      if (bias != nullptr) sum += bias[col];
      c[row * stride + col] = from_float<U>(sum);
    }
}

/// c = op(a) op(b) + addend + bias for any extents and addresses.
template <bool TransposeA, bool TransposeB, class T, class U>
void own_product(cudaStream_t stream, product_factor<T> a, product_factor<T> b, U* c, U const* addend,
                 float const* bias, std::int64_t stride, product_extents e) {
  dim3 const grid(unsigned((e.m + product_tile - 1) / product_tile), unsigned((e.n + product_tile - 1) / product_tile));
  launch("gemm: own product", product_kernel<TransposeA, TransposeB, T, U>, {grid, product_threads}, stream, a, b, c,
         addend, bias, stride, e);
}

/// out = bias, rounded.
template <class U>
__global__ void round_bias_kernel(float const* bias, std::int64_t n, U* out) {
  std::int64_t const i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) out[i] = from_float<U>(bias[i]);
}
template <class U>
void round_bias(cudaStream_t stream, float const* bias, std::int64_t n, U* out) {
  launch("gemm: bias", round_bias_kernel<U>, {unsigned((n + 255) / 256), 256}, stream, bias, n, out);
}

/// c[row, :] += bias
template <class U>
__global__ void add_bias_kernel(U* c, std::int64_t rows, std::int64_t cols, std::int64_t stride, float const* bias) {
  std::int64_t const at = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= rows * cols) return;
  U& x = c[at / cols * stride + at % cols];
  x = from_float<U>(to_float(x) + bias[at % cols]);
}
template <class U>
void add_bias(cudaStream_t stream, U* c, std::int64_t rows, std::int64_t cols, std::int64_t stride, float const* bias) {
  launch("gemm: bias", add_bias_kernel<U>, {unsigned((rows * cols + 255) / 256), 256}, stream, c, rows, cols, stride,
         bias);
}

}  // namespace dm2::cuda::detail
