/// @file
/// Tiles of products of float matrices, in float or in TF32.
///
/// c = a b^T of operands whose sums run along memory: 128 rows by 64 columns a block of 128 threads. Slabs of 16 of the
/// sum's numbers come by 16-byte copies into three stages of shared memory, two ahead of their use. A thread sums 8 x 8
/// numbers in float, from 16 reads of 16 bytes for 256 products; or a warp 32 x 64 by mma.sync in TF32. Rows of a stage
/// are 80 bytes, so that eight of them lie in different banks for either. Tiles of 64 rows are for kernels that hold
/// several of them: half the sums, and 12 reads for 128 products.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Sizes of a block's tile.
struct float_tile {
  static constexpr int rows = 128, columns = 64, threads = 128;
  static constexpr int slab = 16, pieces = slab / 4, pitch = slab + 4;
  static constexpr int stages = 3;
};

/// One slab of both operands.
template <int Rows>
struct float_stage_of {
  alignas(16) float a[Rows][float_tile::pitch];
  alignas(16) float b[float_tile::columns][float_tile::pitch];
};
using float_stage = float_stage_of<float_tile::rows>;

/// A thread's sums: rows row(i), columns column(j). Products are exact float's, added in the order of the sum.
template <int Rows>
struct float_sums_of {
  static constexpr int blocks = 3;  ///< a multiprocessor, of up to 168 registers: four spill 100 bytes a thread
  static constexpr int own_rows = Rows / 16, own_columns = 8;
  float v[own_rows][own_columns] = {};

  // Neighbouring lanes read one column, and lanes two apart one row: a half warp's 16-byte reads at eight places then
  // are one pass over the banks. With eight columns in eight neighbouring lanes b took twice the passes.
  __device__ static int row(int i) {
    int const lane = int(threadIdx.x) % 32;
    return int(threadIdx.x) / 32 * 4 + lane / 16 * 2 + lane % 2 + 16 * i;
  }
  __device__ static int column(int j) { return int(threadIdx.x) % 16 / 2 + 8 * j; }
  __device__ float& at(int i, int j) { return v[i][j]; }
  /// The sum over the lanes that have the same rows, and over those that have the same columns, in each of them.
  __device__ static float over_row(float x) {
    x += __shfl_xor_sync(~0u, x, 2), x += __shfl_xor_sync(~0u, x, 4);
    return x + __shfl_xor_sync(~0u, x, 8);
  }
  __device__ static float over_column(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 16);
  }
  /// Whether this lane is the first of those.
  __device__ static bool first_of_row() { return threadIdx.x % 16 < 2; }
  __device__ static bool first_of_column() { return threadIdx.x % 32 < 16 && threadIdx.x % 2 == 0; }

  /// += a slab's products.
  __device__ void multiply(float_stage_of<Rows> const& s) {
#pragma unroll
    for (int k = 0; k < float_tile::slab; k += 4) {
      float4 a[own_rows];
#pragma unroll
      for (int i = 0; i < own_rows; ++i) a[i] = *reinterpret_cast<float4 const*>(&s.a[row(i)][k]);
#pragma unroll
      for (int j = 0; j < own_columns; ++j) {
        float4 const b = *reinterpret_cast<float4 const*>(&s.b[column(j)][k]);
#pragma unroll
        for (int i = 0; i < own_rows; ++i)
          v[i][j] = fmaf(a[i].w, b.w, fmaf(a[i].z, b.z, fmaf(a[i].y, b.y, fmaf(a[i].x, b.x, v[i][j]))));
      }
    }
  }
  /// f(row, column, number) for each of them.
  template <class F>
  __device__ void each(F const& f) const {
#pragma unroll
    for (int i = 0; i < own_rows; ++i)
#pragma unroll
      for (int j = 0; j < own_columns; ++j) f(row(i), column(j), v[i][j]);
  }
};
using float_sums = float_sums_of<float_tile::rows>;

/// A warp's sums in TF32: operands rounded to 10 bits of mantissa, sums in float.
template <int Rows>
struct tf32_sums_of {
  static constexpr int blocks = 4;  ///< a multiprocessor, of 128 registers
  static constexpr int own_rows = Rows / 32, own_columns = 16;
  static constexpr int warp_rows = Rows / 4, fragments = warp_rows / 16;
  float v[fragments][8][4] = {};

  __device__ static int row(int i) { return warp_rows * (int(threadIdx.x) / 32) + 8 * i + int(threadIdx.x) % 32 / 4; }
  __device__ static int column(int j) { return j / 2 * 8 + int(threadIdx.x) % 4 * 2 + j % 2; }
  __device__ float& at(int i, int j) { return v[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  /// As those of float_sums_of.
  __device__ static float over_row(float x) { return sum_over_lanes<4>(x); }
  __device__ static float over_column(float x) {
    x += __shfl_xor_sync(~0u, x, 4), x += __shfl_xor_sync(~0u, x, 8);
    return x + __shfl_xor_sync(~0u, x, 16);
  }
  __device__ static bool first_of_row() { return threadIdx.x % 4 == 0; }
  __device__ static bool first_of_column() { return threadIdx.x % 32 < 4; }

  /// += a slab's products. ldmatrix takes a float for two numbers of 16 bits: lane 4 g + t gets float t of row g.
  __device__ void multiply(float_stage_of<Rows> const& s) {
    int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < float_tile::slab; k += 8) {
      std::uint32_t a[fragments][4];
#pragma unroll
      for (int m = 0; m < fragments; ++m) {
        load_matrix(a[m], shared_address(&s.a[warp_rows * warp + 16 * m + lane % 16][k + lane / 16 * 4]));
        round_to_tf32(a[m]);
      }
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        std::uint32_t b[4];
        load_matrix(b, shared_address(&s.b[8 * n + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 4]));
        round_to_tf32(b);
#pragma unroll
        for (int m = 0; m < fragments; ++m)
          mma_tf32(v[m][n], a[m], b[0], b[1]), mma_tf32(v[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
  /// f(row, column, number) for each of them.
  template <class F>
  __device__ void each(F const& f) const {
#pragma unroll
    for (int i = 0; i < own_rows; ++i)
#pragma unroll
      for (int j = 0; j < own_columns; ++j) f(row(i), column(j), v[i / 2][j / 2][i % 2 * 2 + j % 2]);
  }
};
using tf32_sums = tf32_sums_of<float_tile::rows>;

/// The sums for a precision: TF32 where it says so.
template <precision P>
using sums_for = std::conditional_t<P == precision::tf32, tf32_sums, float_sums>;

/// Rows of a matrix, `stride` floats apart, at a multiple of 16 bytes; `depth` of each are summed, a multiple of 4.
struct float_rows {
  static constexpr bool copied = true;
  struct place {
    std::ptrdiff_t at;  ///< negative where there is no such row
  };
  float const* data;
  std::ptrdiff_t stride;
  int rows, depth;

  __device__ place locate(int row) const { return {row < rows ? std::ptrdiff_t{row} * stride : -1}; }
  /// Where four numbers from k on are, and whether there are such.
  __device__ float const* piece(place const& p, int k, bool& inside) const {
    inside = p.at >= 0 && k < depth;
    return inside ? data + p.at + k : data;
  }
};

/// A thread's part of an operand's `Rows` rows on their way to shared memory. A source that is `copied` gives addresses
/// of four numbers, and another one numbers.
template <class Source, int Rows>
class float_operand {
  static constexpr int own = Source::copied ? Rows * float_tile::pieces / float_tile::threads : 1;
  static constexpr int step = float_tile::threads / float_tile::pieces;  ///< rows from a thread's piece to its next one

 public:
  __device__ float_operand(Source const& source, int row0) : source_{source} {
    static_assert(Source::copied || Rows == float_tile::threads, "dm2::cuda: a row a thread");
#pragma unroll
    for (int i = 0; i < own; ++i) place_[i] = source.locate(row0 + row(i));
  }
  /// Starts the copy of the numbers from k0 on.
  __device__ void stage(int k0, float (&to)[Rows][float_tile::pitch]) const {
    if constexpr (Source::copied) {
      int const k = int(threadIdx.x) % float_tile::pieces * 4;
#pragma unroll
      for (int i = 0; i < own; ++i) {
        bool inside = true;
        float const* const from = source_.piece(place_[i], k0 + k, inside);
        copy_async(shared_address(&to[row(i)][k]), from, inside);
      }
    } else {
#pragma unroll
      for (int k = 0; k < float_tile::slab; k += 4) {
        float4 const v{source_.number(place_[0], k0 + k), source_.number(place_[0], k0 + k + 1),
                       source_.number(place_[0], k0 + k + 2), source_.number(place_[0], k0 + k + 3)};
        *reinterpret_cast<float4*>(&to[threadIdx.x][k]) = v;
      }
    }
  }

 private:
  __device__ static int row(int i) {
    return Source::copied ? int(threadIdx.x) / float_tile::pieces + step * i : int(threadIdx.x);
  }
  Source const& source_;
  typename Source::place place_[own];
};

/// sums += rows row0 ... of a times rows column0 ... of b, over `depth` numbers; after(slab) follows each slab's
/// products. All threads of the block.
template <class Sums, int Rows, class A, class B, class After>
__device__ inline void float_product(Sums& sums, float_stage_of<Rows> (&stage)[float_tile::stages], A const& a,
                                     B const& b, int row0, int column0, int depth, After const& after) {
  using T = float_tile;
  float_operand<A, Rows> const left{a, row0};
  float_operand<B, T::columns> const right{b, column0};
  int const slabs = (depth + T::slab - 1) / T::slab;
  auto const start = [&](int slab) {
    if (slab < slabs) {
      left.stage(slab * T::slab, stage[slab % T::stages].a);
      right.stage(slab * T::slab, stage[slab % T::stages].b);
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
    after(slab);
  }
}
template <class Sums, int Rows, class A, class B>
__device__ inline void float_product(Sums& sums, float_stage_of<Rows> (&stage)[float_tile::stages], A const& a,
                                     B const& b, int row0, int column0, int depth) {
  float_product(sums, stage, a, b, row0, column0, depth, [](int) {});
}

}  // namespace dm2::cuda::detail
