/// @file
/// A product of float in one block of threads.
///
/// Operands are computed as they are read: for shapes that no library or tensor kernel takes.
///
/// The block multiplies [64, K] by [K, 64] into four rows and four columns a thread, in slabs of 16 of K that lie in
/// shared memory. An operand is a function (i, k) of its row or column i in 0..63 and of k, that gives 0 outside of
/// what there is. Sums run over ascending k.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cuda_runtime.h>

namespace dm2::cuda::detail {

/// Rows and columns of a block's product, its threads, and how much of K lies in shared memory at a time.
inline constexpr int block_side = 64, block_threads = 256, block_slab = 16;

/// The operands' slabs. Rows are 16 bytes longer than 64 numbers: stores down a column then meet two banks' owners
/// only.
struct block_stage {
  alignas(16) float a[block_slab][block_side + 4];
  alignas(16) float b[block_slab][block_side + 4];
};

/// A thread's part of the result: rows row() + 0..3, columns column() + 0..3.
struct block_tile {
  float v[4][4] = {};

  __device__ static int row() { return int(threadIdx.x) / 16 * 4; }
  __device__ static int column() { return int(threadIdx.x) % 16 * 4; }
  /// f(row, column, number) for each of them.
  template <class F>
  __device__ void each(F const& f) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) f(row() + r, column() + c, v[r][c]);
  }
};

/// Along: neighbouring k are neighbours in memory, else neighbouring i are.
template <bool Along, class Depth, class F>
__device__ inline void stage_slab(float (&to)[block_slab][block_side + 4], Depth k0, Depth depth, F const& operand) {
#pragma unroll
  for (int j = 0; j < block_side * block_slab / block_threads; ++j) {
    int const e = j * block_threads + int(threadIdx.x);
    int const i = Along ? e / block_slab : e % block_side, k = Along ? e % block_slab : e / block_side;
    to[k][i] = k0 + k < depth ? operand(i, k0 + k) : 0.f;
  }
}

/// c += a b over k < depth. Every thread of the block calls it; it begins with a barrier where depth > 0, so that what
/// the operands read may have been written just before.
template <bool AlongA, bool AlongB, class Depth, class A, class B>
__device__ inline void block_product(block_tile& c, block_stage& s, Depth depth, A const& a, B const& b) {
  for (Depth k0 = 0; k0 < depth; k0 += block_slab) {
    __syncthreads();
    stage_slab<AlongA>(s.a, k0, depth, a);
    stage_slab<AlongB>(s.b, k0, depth, b);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < block_slab; ++k) {
      float4 const u = *reinterpret_cast<float4 const*>(&s.a[k][block_tile::row()]);
      float4 const v = *reinterpret_cast<float4 const*>(&s.b[k][block_tile::column()]);
      float const left[4]{u.x, u.y, u.z, u.w}, right[4]{v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) c.v[i][j] = fmaf(left[i], right[j], c.v[i][j]);
    }
  }
}

}  // namespace dm2::cuda::detail
