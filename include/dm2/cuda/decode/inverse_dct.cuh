/// @file
/// Coefficients to samples: the integer transform of libjpeg-turbo's default.
/// Source: C. Loeffler, A. Ligtenberg, G. S. Moschytz, ICASSP 1989; its constants rounded to 13 bits.
#pragma once

#include <dm2/cuda/decode/records.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// Numbers beyond this, where none of a picture's are, libjpeg-turbo's vector code wraps or saturates and its other
/// code does not: the host decides. Within it nothing here leaves 32 bits.
inline constexpr int most_transformed = 8191;

/// v within most_transformed; tells where it was not.
[[nodiscard]] __device__ inline int bounded(int v, bool& beyond) {
  beyond = beyond || v > most_transformed || v < -most_transformed;
  return dm2::detail::within(v, -most_transformed, most_transformed);
}

/// Eight points of the transform, 2^13 times their value. The products are exact, so that their order does not matter:
/// this is the published network multiplied out.
__device__ inline void transform_eight(int const (&x)[8], int (&y)[8]) {
  int const sum = (x[0] + x[4]) * 8192, difference = (x[0] - x[4]) * 8192;
  int const near = 4433 * x[2] - 10704 * x[6], far = 10703 * x[2] + 4433 * x[6];
  int const even[4] = {sum + far, difference + near, difference - near, sum - far};
  int const odd[4] = {
      11363 * x[1] + 9633 * x[3] + 6437 * x[5] + 2260 * x[7], 9633 * x[1] - 2259 * x[3] - 11362 * x[5] - 6436 * x[7],
      6437 * x[1] - 11362 * x[3] + 2261 * x[5] + 9633 * x[7], 2260 * x[1] - 6436 * x[3] + 9633 * x[5] - 11363 * x[7]};
  for (int i = 0; i < 4; ++i) {
    y[i] = even[i] + odd[i];
    y[7 - i] = even[i] - odd[i];
  }
}

/// v / 2^bits, rounded, halves upwards.
template <int bits>
[[nodiscard]] __device__ inline int scaled_down(int v) {
  return (v + (1 << (bits - 1))) >> bits;
}

/// Blocks of component c side by side that the part's columns follow from: the first, and how many.
struct block_columns {
  int first, count;

  __device__ block_columns(decode_record const& p, int c) {
    int const half = p.jpeg.part[0].across / p.jpeg.part[c].across;  // smooth upsampling looks one sample to each side
    int const left = dm2::detail::greatest(0, p.part.left - 2) / half, right = (p.part.left + p.part.width + 1) / half;
    first = left / 8;
    count = dm2::detail::least(right / 8 + 1, p.blocks_across(c)) - first;
  }
};

/// Threads of the transform: eight for a block, one for a column and then for a row of it.
inline constexpr int transform_threads = 256;

/// The place of a block's coefficient in the file, which goes along diagonals, back and forth.
[[nodiscard]] __device__ inline int place_in_file(int row, int column) {
  bool const late = row + column > 7;  // in the half behind the longest diagonal, which is the other one turned round
  if (late) row = 7 - row, column = 7 - column;
  int const diagonal = row + column;
  int const place = diagonal * (diagonal + 1) / 2 + (diagonal % 2 == 0 ? column : row);
  return late ? 63 - place : place;
}

/// Transforms the column of a block whose coefficients are at `places`, with every 8th of `steps`, into every 9th place
/// of `to`.
__device__ inline void transform_column(std::int16_t const* block, int const (&places)[8], std::uint16_t const* steps,
                                        int* to, bool& beyond) {
  int x[8], y[8];
  for (int i = 0; i < 8; ++i) x[i] = bounded(block[places[i]] * int(steps[8 * i]), beyond);
  transform_eight(x, y);
  for (int i = 0; i < 8; ++i) to[9 * i] = bounded(scaled_down<11>(y[i]), beyond);
}

/// Transforms one row, to eight samples at a multiple of eight.
__device__ inline void transform_row(int const* from, std::uint8_t* to, bool& beyond) {
  int x[8], y[8];
  for (int i = 0; i < 8; ++i) x[i] = from[i];
  transform_eight(x, y);
  unsigned word[2] = {};
  for (int i = 0; i < 8; ++i) {
    int const v = scaled_down<18>(y[i]);
    beyond = beyond || v < -512 || v > 511;
    word[i / 4] |= unsigned(dm2::detail::within(v + 128, 0, 255)) << (i % 4 * 8);
  }
  *reinterpret_cast<uint2*>(to) = make_uint2(word[0], word[1]);
}

/// The samples of component block.z of picture block.x; block.y takes every gridDim.y-th stretch of 32 blocks.
template <class Call>
__global__ void __launch_bounds__(transform_threads) inverse_dct_kernel(Call call) {
  constexpr int each = transform_threads / 8;
  __shared__ int columns[each][72];  // 9 numbers a row, so that neither rows nor columns share a bank
  decode_record const& p = call.pictures[blockIdx.x];
  int const c = int(blockIdx.z), own = int(threadIdx.x) / 8, line = int(threadIdx.x) % 8;
  if (c >= p.jpeg.components) return;
  block_columns const kept{p, c};
  int const across = p.blocks_across(c), blocks = p.blocks_down(c) * kept.count;
  int places[8];
  for (int i = 0; i < 8; ++i) places[i] = place_in_file(i, line);
  bool beyond = false;
  for (int base = int(blockIdx.y) * each; base < blocks; base += int(gridDim.y) * each) {
    int const k = base + own, row = k / kept.count, column = kept.first + k % kept.count;
    std::size_t const block = std::size_t(row) * std::size_t(across) + std::size_t(column);
    if (k < blocks)
      transform_column(call.coefficients + p.samples[c] + 64 * block, places, p.jpeg.part[c].quantisation + line,
                       columns[own] + line, beyond);
    __syncwarp();
    if (k < blocks)
      transform_row(
          columns[own] + 9 * line,
          call.samples + p.samples[c] + (std::size_t(8 * row + line) * std::size_t(across) + std::size_t(column)) * 8,
          beyond);
    __syncwarp();
  }
  if (beyond) call.damaged[blockIdx.x] = 1;
}

}  // namespace dm2::cuda::detail
