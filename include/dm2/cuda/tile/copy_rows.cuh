/// @file
/// Rows of 16-bit numbers from global memory to shared memory, by cp.async.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>

#include <cstddef>
#include <cstdint>
#include <limits>

namespace dm2::cuda::detail {

/// Rows in global memory, `stride` numbers apart. What is outside of them is zeros, and not read.
template <class T>
struct row_source {
  T const* from;                                  ///< the first number wanted of row 0, at a multiple of 16 bytes
  std::ptrdiff_t stride;                          ///< a multiple of 8
  int rows;                                       ///< 0 .. rows - 1 are there
  int columns = std::numeric_limits<int>::max();  ///< numbers of a row that are there: a multiple of 8

  [[nodiscard]] __device__ T const* operator()(int row, int column, bool& inside) const {
    inside = unsigned(row) < unsigned(rows) && column < columns;
    return from + (inside ? std::ptrdiff_t{row} * stride + column : 0);
  }
};

/// Starts the copy of piece number i of rows of `Columns` numbers, counted from row `first` on.
template <int Columns, class Source>
__device__ inline void copy_piece(std::uint32_t to, int pitch, Source const& source, int first, int i) {
  static_assert(Columns % 8 == 0, "dm2::cuda::detail::copy_piece: whole pieces of 16 bytes");
  int const row = i / (Columns / 8), piece = i % (Columns / 8);
  bool inside = true;
  auto const* const from = source(first + row, piece * 8, inside);
  static_assert(sizeof(*from) == 2, "dm2::cuda::detail::copy_piece: numbers of 16 bits");
  copy_async(to + std::uint32_t(row * pitch + piece * 16), from, inside);
}

/// Starts the copies of rows [first, first + count), `Columns` numbers each, to rows of `pitch` bytes from the shared
/// address `to` on; a row may be negative. Thread `thread` of `threads` does its part, `Unroll` copies at a time. The
/// caller commits and waits.
///
/// source(row, column, inside) is where eight numbers are: as row_source; inside is true before.
template <int Columns, int Unroll = 4, class Source>
__device__ inline void copy_rows(std::uint32_t to, int pitch, Source const& source, int first, int count, int thread,
                                 int threads) {
#pragma unroll Unroll
  for (int i = thread; i < count * (Columns / 8); i += threads) copy_piece<Columns>(to, pitch, source, first, i);
}

/// The same for a number of rows and threads that the compiler knows: no count is compared where it comes out even.
template <int Columns, int Rows, int Threads, int Unroll = Rows, class Source>
__device__ inline void copy_tile(std::uint32_t to, int pitch, Source const& source, int first, int thread) {
  constexpr int all = Rows * (Columns / 8);
#pragma unroll Unroll
  for (int j = 0; j < (all + Threads - 1) / Threads; ++j) {
    int const i = thread + j * Threads;
    if (all % Threads == 0 || i < all) copy_piece<Columns>(to, pitch, source, first, i);
  }
}

}  // namespace dm2::cuda::detail
