/// @file
/// Places of a lane's numbers in fragments of mma.m16n8k16, and sums.
///
/// The layouts are those of the PTX ISA ("Matrix Fragments for mma.m16n8k16"): see instructions/mma.cuh. Four lanes
/// share a row of results, eight lanes a column.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cuda_runtime.h>

#include <cstdint>

namespace dm2::cuda::detail {

/// A lane's place in fragments, from its number in the warp: as int; or as unsigned where hide() has made the compiler
/// forget that it is not negative, so that a quotient is a shift.
struct fragment {
  /// The lane's first row of 16 (half 0), and the one 8 rows further on (half 1): of results, and of a left operand.
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int row(Lane lane, int half = 0) {
    return half * 8 + int(lane / 4);
  }
  /// Which of the four lanes of its row it is.
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int quarter(Lane lane) {
    return int(lane % 4);
  }
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr bool leads_row(Lane lane) {
    return lane % 4 == 0;
  }
  /// The first of the lane's N neighbouring columns of its row: two of 8 as the product leaves them. Four of 16 and
  /// eight of 32 where the right operand's columns were permuted so that they become neighbours.
  template <int N = 2, class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int column(Lane lane) {
    return int(lane % 4) * N;
  }

  /// Bytes from a tile of 16 x 16 numbers of 16 bits to the row whose address the lane gives load_matrix, in rows of
  /// `pitch` bytes: for a left operand; and for a right one that load_matrix_transposed reads.
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int left_operand(Lane lane, int pitch) {
    return int(lane % 16) * pitch + int(lane / 16) * 16;
  }
  /// The same for a right operand whose columns the rows are.
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int right_operand(Lane lane, int pitch) {
    return (int(lane % 8) + int(lane / 16) * 8) * pitch + int(lane / 8 % 2) * 16;
  }

  /// Bytes into a tile that lies as the four 8 x 8 matrices of a left operand, in the order of its registers, to the
  /// row whose address the lane gives load_matrix_transposed: its transpose is a left operand then, without a move.
  template <class Lane>
  [[nodiscard]] __host__ __device__ static constexpr int transposed_left_operand(Lane lane) {
    return int(lane % 8 + lane / 8 % 2 * 16 + lane / 16 * 8) * 16;
  }
};

/// The sum, and the greatest, of the numbers of the four lanes that share a row of results, in each of them.
__device__ inline float sum_over_row(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float max_over_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/// The sum over the eight lanes that share a column of results, in each of them.
__device__ inline float sum_over_column(float x) {
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

/// Lanes at a distance of `Bit` exchange halves of v[0, 2 N) and add: v[0, N) are the sums of the half that a lane is
/// left with, the second one where its number has the bit.
template <int N, int Bit, int Size>
__device__ inline void exchange_halves(float (&v)[Size], int lane) {
  static_assert(2 * N <= Size, "dm2::cuda::detail::exchange_halves: more numbers than there are");
  bool const upper = (lane & Bit) != 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float const given = upper ? v[i] : v[i + N], kept = upper ? v[i + N] : v[i];
    v[i] = kept + __shfl_xor_sync(~0u, given, Bit);
  }
}

/// Sums of N numbers over the lanes that differ in log2(N) bits of their number, the highest of them `Bit`. Each lane
/// gets one of the sums: the one that those bits say, the highest first. N - 1 exchanges.
template <int N, int Bit, int Size>
__device__ inline float fold(float const (&v)[Size], int lane) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    float left[N];
#pragma unroll
    for (int i = 0; i < N; ++i) left[i] = v[i];
    exchange_halves<N / 2, Bit>(left, lane);
    return fold<N / 2, Bit / 2>(left, lane);
  }
}

}  // namespace dm2::cuda::detail
