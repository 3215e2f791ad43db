/// @file
/// Samples to RGB: smooth chroma upsampling and colours of libjpeg-turbo's default.
/// Source: ITU-T T.871 (JFIF) for the colours, in 16 bits of fraction.
#pragma once

#include <dm2/cuda/decode/records.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// A component's samples, of the rows that are kept.
struct sample_plane {
  std::uint8_t const* samples;
  int stride, first;  ///< bytes of a row; the first row
  int rows, columns;  ///< that the picture has

  __device__ sample_plane(decode_call const& call, decode_record const& p, int c)
      : samples{call.samples + p.samples[c]},
        stride{8 * p.blocks_across(c)},
        first{8 * p.rows.first * p.jpeg.part[c].down},
        rows{p.jpeg.rows_of(c)},
        columns{p.jpeg.columns_of(c)} {}

  /// The sample of a row and a column of the component; those beyond the picture's are its last ones.
  [[nodiscard]] __device__ int at(int row, int column) const {
    row = dm2::detail::within(row, 0, rows - 1);
    column = dm2::detail::within(column, 0, columns - 1);
    return samples[std::size_t(row - first) * std::size_t(stride) + std::size_t(column)];
  }
  /// Chroma at half the columns: three parts of the nearest sample, one of the next. Two columns are repeated instead.
  [[nodiscard]] __device__ int between_columns(int y, int x) const {
    int const own = at(y, x / 2);
    if (columns <= 2) return own;
    return x % 2 == 0 ? (3 * own + at(y, x / 2 - 1) + 1) >> 2 : (3 * own + at(y, x / 2 + 1) + 2) >> 2;
  }
  /// Chroma at half of both sides: the same of rows, and then of columns, rounded once.
  [[nodiscard]] __device__ int between_both(int y, int x) const {
    int const row = y / 2, column = x / 2, other = y % 2 == 0 ? row - 1 : row + 1;
    if (columns <= 2) return at(row, column);
    int const beside = x % 2 == 0 ? column - 1 : column + 1;
    int const own = 3 * at(row, column) + at(other, column), next = 3 * at(row, beside) + at(other, beside);
    return (3 * own + next + (x % 2 == 0 ? 8 : 7)) >> 4;
  }
};

/// One pixel's RGB. `blue` and `red` are its chroma.
__device__ inline void to_rgb(int luma, int blue, int red, std::uint8_t* out) {
  int const b = blue - 128, r = red - 128;
  constexpr int half = 1 << 15;
  int const v[3] = {luma + ((91881 * r + half) >> 16), luma + ((-22554 * b - 46802 * r + half) >> 16),
                    luma + ((116130 * b + half) >> 16)};
  for (int c = 0; c < 3; ++c) out[c] = std::uint8_t(dm2::detail::within(v[c], 0, 255));
}

/// The pixels of picture block.x's part; block.y takes every gridDim.y-th stretch of 256.
template <class Call>
__global__ void __launch_bounds__(256) colour_kernel(Call call) {
  decode_record const& p = call.pictures[blockIdx.x];
  bool const grey = p.jpeg.components == 1, half = p.jpeg.part[0].across == 2, both = p.jpeg.part[0].down == 2;
  int const chroma = grey ? 0 : 1;
  sample_plane const luma{call, p, 0}, blue{call, p, chroma}, red{call, p, 2 * chroma};
  unsigned const width = unsigned(p.part.width), pixels = unsigned(p.part.height) * width;
  for (unsigned k = blockIdx.y * 256 + threadIdx.x; k < pixels; k += gridDim.y * 256) {
    int const y = p.part.top + int(k / width), x = p.part.left + int(k % width);
    std::uint8_t* const to = call.pixels + p.pixels + std::size_t{3} * k;
    int const light = luma.at(y, x);
    if (grey)
      to[0] = to[1] = to[2] = std::uint8_t(light);
    else if (both)
      to_rgb(light, blue.between_both(y, x), red.between_both(y, x), to);
    else if (half)
      to_rgb(light, blue.between_columns(y, x), red.between_columns(y, x), to);
    else
      to_rgb(light, blue.at(y, x), red.at(y, x), to);
  }
}

}  // namespace dm2::cuda::detail
