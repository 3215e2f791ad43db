/// @file
/// Copies and products of tiles in project-add-norm's tensor kernel. See tensor.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// Where weight row n of a group of 16 stands, so that a thread's four results of two neighbouring tiles are
/// neighbours in memory: 4 i + j at 2 i + j, and at 8 + 2 i + j - 2 from j = 2 on.
__device__ inline int fragment_row(int n) { return (n & ~15) | (n & 2) << 2 | (n & 12) >> 1 | (n & 1); }

/// Rows [first, first + Rows) of a row-major matrix of 16-bit numbers, `Columns` of them from `from` on, to shared
/// memory. Rows from `count` on are zeros. A thread's pieces lie a constant apart on both sides, so that their
/// addresses are constants in the instructions.
template <int Columns, int Pitch, int Rows, int Stride, int Threads, bool Permute, class T>
__device__ inline void copy_rows(std::uint32_t to, T const* from, int first, int count) {
  constexpr int pieces = Columns % 64 == 0 ? 8 : 4, at_once = Threads / pieces;
  static_assert(Columns % 32 == 0 && at_once % 16 == 0);
  int const row = int(threadIdx.x) / pieces, piece = int(threadIdx.x) % pieces;
  to += std::uint32_t((Permute ? fragment_row(row) : row) * Pitch + piece * 16);
  from += std::size_t(first + row) * Stride + piece * 8;
#pragma unroll
  for (int r = 0; r < Rows; r += at_once) {
    if (Rows % at_once != 0 && r + row >= Rows) break;
    bool const valid = first + r + row < count;
#pragma unroll
    for (int c = 0; c < Columns; c += pieces * 8)
      copy_async(to + std::uint32_t(r * Pitch + c * 2), from + std::ptrdiff_t{r} * Stride + c, valid);
  }
}

/// acc [M 16, G 16] += a w over Steps times 16; a(k) gives the fragments of step k, load(b, k, n) puts those of w's
/// step k and group n into b. The next ones are loaded while the ones before are multiplied.
template <class T, int M, int G, int Steps, class Operand, class Load>
__device__ inline void multiply_ahead(float (&acc)[M][2 * G][4], Operand&& a, Load const& load) {
  std::uint32_t b[2][4];
  load(b[0], 0, 0);
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
    std::uint32_t const(&rows)[M][4] = a(k);
#pragma unroll
    for (int n = 0; n < G; ++n) {
      int const i = k * G + n, next = i + 1;
      if (next < Steps * G) load(b[next % 2], next / G, next % G);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma<T>(acc[m][2 * n], rows[m], b[i % 2][0], b[i % 2][1]);
        mma<T>(acc[m][2 * n + 1], rows[m], b[i % 2][2], b[i % 2][3]);
      }
    }
  }
}

/// acc [M 16, G 16] += a w^T over Steps times 16 columns, w at `w` with fragment-permuted rows, `pitch` bytes apart.
template <class T, int M, int G, int Steps, class Operand>
__device__ inline void multiply_steps(float (&acc)[M][2 * G][4], Operand&& a, std::uint32_t w, int pitch) {
  multiply_ahead<T, M, G, Steps>(
      acc, a, [&](std::uint32_t(&b)[4], int k, int n) { load_matrix(b, w + std::uint32_t(n * 16 * pitch + k * 32)); });
}

/// Row fragments from shared memory, one step ahead of their use.
template <int M, int Steps>
struct streamed_rows {
  std::uint32_t from;
  int pitch;
  std::uint32_t a[2][M][4];

  __device__ streamed_rows(std::uint32_t address, int row_pitch) : from{address}, pitch{row_pitch} { load(0); }
  __device__ std::uint32_t const (&operator()(int k))[M][4] {
    if (k + 1 < Steps) load(k + 1);
    return a[k % 2];
  }

 private:
  __device__ void load(int k) {
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrix(a[k % 2][m], from + std::uint32_t(m * 16 * pitch + k * 32));
  }
};

/// Where a thread's numbers of the block's rows stand: Tr's warps_m times row_tiles tiles of 16 rows, warps_n warps
/// across. Traits have `rows`, `row_tiles` and `warps_n`.
template <class Tr>
struct tile_place {
  int lane = int(threadIdx.x) % 32, wm = int(threadIdx.x) / 32 / Tr::warps_n, wn = int(threadIdx.x) / 32 % Tr::warps_n;
  int first = int(blockIdx.x) * Tr::rows;  ///< the block's first row

  /// In the block: of tile m of the warp's.
  [[nodiscard]] __device__ int row(int m, int half) const {
    return (wm * Tr::row_tiles + m) * 16 + fragment::row(lane, half);
  }
  /// The first of four neighbouring columns in the warp's groups of 16, `groups` of them.
  [[nodiscard]] __device__ int column(int groups) const { return wn * groups * 16 + fragment::column<4>(lane); }
  /// Bytes to the lane's part of the warp's rows as a left operand, and of its groups as a right one's columns.
  [[nodiscard]] __device__ std::uint32_t left(int pitch) const {
    return std::uint32_t(wm * Tr::row_tiles * 16 * pitch + fragment::left_operand(lane, pitch));
  }
  [[nodiscard]] __device__ std::uint32_t right(int groups, int pitch) const {
    return std::uint32_t(wn * groups * 16 * pitch + fragment::right_operand(lane, pitch));
  }
};

/// Calls visit(m, half) for each of a thread's rows of a warp's tiles.
template <int M, class Visit>
__device__ inline void for_each_row(Visit const& visit) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) visit(m, half);
}

}  // namespace dm2::cuda::detail::project_add_norm
