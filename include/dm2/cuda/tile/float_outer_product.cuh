/// @file
/// Tiles of products of float matrices whose sums run across memory.
///
/// c = a^T b, a [K, rows] and b [K, columns]: 64 x 64 a block of 128 threads. Slabs of 16 of the sum's numbers come by
/// 16-byte copies into three stages, two ahead of their use, as in float_product.cuh. A thread sums 4 x 8 numbers in
/// float, or a warp 16 x 64 by mma.sync in TF32. Rows of a stage are eight numbers more than 64, so that four of them
/// lie in different banks.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// Sizes of a block's tile.
struct outer_tile {
  static constexpr int side = 64, threads = 128, slab = 16, pitch = side + 8, stages = 3;
};

/// One slab of both operands.
struct outer_stage {
  alignas(16) float a[outer_tile::slab][outer_tile::pitch];
  alignas(16) float b[outer_tile::slab][outer_tile::pitch];
};

/// A matrix [K, columns], rows `stride` floats apart, both at multiples of 16 bytes; `columns` is a multiple of 4.
struct outer_operand {
  float const* data;
  std::ptrdiff_t stride;
  int columns;

  /// Starts the copy of rows k0 ... before `end`, columns from c0 on.
  __device__ void stage(int k0, int end, int c0, float (&to)[outer_tile::slab][outer_tile::pitch]) const {
    constexpr int pieces = outer_tile::side / 4;
#pragma unroll
    for (int e = int(threadIdx.x); e < outer_tile::slab * pieces; e += outer_tile::threads) {
      int const k = e / pieces, c = e % pieces * 4;
      bool const inside = k0 + k < end && c0 + c < columns;
      copy_async(shared_address(&to[k][c]), inside ? data + (k0 + k) * stride + c0 + c : data, inside);
    }
  }
};

/// A thread's sums in float: four rows, twice four columns.
struct outer_sums {
  float v[4][2][4] = {};

  /// += a slab's products.
  __device__ void multiply(outer_stage const& s) {
    int const row = int(threadIdx.x) / 8 * 4, column = int(threadIdx.x) % 8 * 4;
#pragma unroll
    for (int k = 0; k < outer_tile::slab; ++k) {
      auto const a = load_packet<4>(&s.a[k][row]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto const b = load_packet<4>(&s.b[k][32 * half + column]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) v[i][half][j] = fmaf(a.v[i], b.v[j], v[i][half][j]);
      }
    }
  }
  /// f(row, column, packet of neighbouring columns).
  template <class F>
  __device__ void each(F const& f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        f(int(threadIdx.x) / 8 * 4 + i, 32 * half + int(threadIdx.x) % 8 * 4,
          packet<float, 4>{v[i][half][0], v[i][half][1], v[i][half][2], v[i][half][3]});
  }
};

/// A warp's sums in TF32: 16 rows.
struct outer_sums_tf32 {
  float v[8][4] = {};

  /// += a slab's products.
  __device__ void multiply(outer_stage const& s) {
    int const warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int k = 0; k < outer_tile::slab; k += 8) {
      std::uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(s.a[k + t + i / 2 * 4][16 * warp + i % 2 * 8 + g]);
      round_to_tf32(a);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        std::uint32_t b[2]{__float_as_uint(s.b[k + t][8 * n + g]), __float_as_uint(s.b[k + t + 4][8 * n + g])};
        round_to_tf32(b);
        mma_tf32(v[n], a, b[0], b[1]);
      }
    }
  }
  /// f(row, column, packet of neighbouring columns).
  template <class F>
  __device__ void each(F const& f) const {
    int const warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < 8; ++n)
        f(16 * warp + 8 * half + g, 8 * n + 2 * t, packet<float, 2>{v[n][2 * half], v[n][2 * half + 1]});
  }
};

/// sums += the products of columns row0 ... of a and column0 ... of b, summed over their rows first ... before `end`.
/// All threads of the block.
template <class Sums>
__device__ inline void outer_product(Sums& sums, outer_stage (&stage)[outer_tile::stages], outer_operand const& a,
                                     outer_operand const& b, int row0, int column0, int first, int end) {
  using T = outer_tile;
  int const slabs = (end - first + T::slab - 1) / T::slab;
  auto const start = [&](int slab) {
    if (slab < slabs) {
      int const k0 = first + slab * T::slab;
      a.stage(k0, end, row0, stage[slab % T::stages].a);
      b.stage(k0, end, column0, stage[slab % T::stages].b);
    }
    commit_copies();
  };
#pragma unroll
  for (int slab = 0; slab < T::stages - 1; ++slab) start(slab);
#pragma unroll 1
  for (int slab = 0; slab < slabs; ++slab) {
    wait_copies<T::stages - 2>();
    __syncthreads();  // the slab is there, and nobody reads the stage that comes next
    start(slab + T::stages - 1);
    sums.multiply(stage[slab % T::stages]);
  }
}

}  // namespace dm2::cuda::detail
