/// @file
/// Antialiased resizing of 8-bit RGB, bit for bit as Pillow resizes.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/host_device.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace dm2 {

namespace detail {

/// 2^-22 fixed point to a byte, clamped. The accumulator started at one half and is two's complement.
[[nodiscard]] DM2_HOST_DEVICE inline std::uint8_t to_byte(std::uint32_t sum) noexcept {
  return static_cast<std::uint8_t>(within(static_cast<std::int32_t>(sum) >> weight_bits, 0, 255));
}

/// Sums are unsigned, so that the few weights whose roundings add up wrap instead of being undefined.
inline constexpr std::uint32_t half_weight = std::uint32_t{1} << (weight_bits - 1);

/// One row, horizontally: out[i] = sum over t of weight * src[first[i] + t], three channels a pixel.
///
/// Four lanes are summed though three are wanted, because four bytes are one load: src must have one readable byte
/// after its last pixel. Taps is a.taps, or 0 to read it at run time: with few taps, as most resizes of photographs to
/// 224 have, a loop of known length takes half the time.
template <std::size_t Taps>
void resample_row(std::uint8_t const* src, axis_weights const& a, std::uint8_t* out) noexcept {
  std::size_t const taps = Taps == 0 ? static_cast<std::size_t>(a.taps) : Taps;
  for (std::size_t i = 0; i < a.first.size(); ++i) {
    std::array<std::uint32_t, 4> sum{half_weight, half_weight, half_weight, half_weight};
    std::uint8_t const* p = src + 3 * static_cast<std::size_t>(a.first[i]);
    std::int32_t const* const w = a.weight.data() + i * taps;
    for (std::size_t t = 0; t < taps; ++t, p += 3)
      for (std::size_t c = 0; c < 4; ++c) sum[c] += static_cast<std::uint32_t>(w[t]) * p[c];
    for (std::size_t c = 0; c < 3; ++c) out[3 * i + c] = to_byte(sum[c]);
  }
}

/// resample_row for that many taps.
[[nodiscard]] inline auto row_resampler(int taps) noexcept {
  using function = void (*)(std::uint8_t const*, axis_weights const&, std::uint8_t*) noexcept;
  constexpr std::array<function, 7> known{resample_row<0>, resample_row<1>, resample_row<2>, resample_row<3>,
                                          resample_row<4>, resample_row<5>, resample_row<6>};
  return known[static_cast<std::size_t>(taps) < known.size() ? static_cast<std::size_t>(taps) : 0];
}

/// One row, vertically: out[x] = sum over t of w[t] * src[t * stride + x], for n bytes.
inline void combine_rows(std::uint8_t const* src, std::size_t stride, std::int32_t const* w, int taps,
                         std::uint8_t* out, std::size_t n) noexcept {
  constexpr std::size_t tile = 96;  // sums that stay in registers: six of 512 bits
  for (std::size_t x = 0; x < n; x += tile) {
    std::array<std::uint32_t, tile> sum;
    sum.fill(half_weight);
    std::size_t const m = std::min(tile, n - x);
    for (int t = 0; t < taps; ++t) {
      std::uint8_t const* const p = src + static_cast<std::size_t>(t) * stride + x;
      auto const weight = static_cast<std::uint32_t>(w[t]);
      if (m == tile)
        for (std::size_t j = 0; j < tile; ++j) sum[j] += weight * p[j];
      else
        for (std::size_t j = 0; j < m; ++j) sum[j] += weight * p[j];
    }
    for (std::size_t j = 0; j < m; ++j) out[x + j] = to_byte(sum[j]);
  }
}

/// Rows [top, top + rows) of the box's columns, resampled horizontally.
inline picture resample_columns(picture const& p, pixel_box box, int top, int rows, axis_weights const& across) {
  picture out{rows, static_cast<int>(across.first.size())};
  std::size_t const skip = 3 * static_cast<std::size_t>(box.left);
  auto const resample_one = row_resampler(across.taps);
  for (int y = 0; y < rows; ++y) {
    int const from = box.top + top + y;
    if (from + 1 < p.height) {
      resample_one(p.row(from) + skip, across, out.row(y));
    } else {  // nothing is readable after the picture's last byte
      std::vector<std::uint8_t> padded(3 * static_cast<std::size_t>(box.width) + 1);
      std::copy_n(p.row(from) + skip, padded.size() - 1, padded.begin());
      resample_one(padded.data(), across, out.row(y));
    }
  }
  return out;
}

/// The box's pixels, unchanged.
inline picture copy_box(picture const& p, pixel_box box) {
  picture out{box.height, box.width};
  for (int y = 0; y < box.height; ++y)
    std::copy_n(p.row(box.top + y) + 3 * static_cast<std::size_t>(box.left), out.stride(), out.row(y));
  return out;
}

/// The weights of a resize to height x width, of which only a window's pixels are computed.
struct resample_plan {
  axis_weights across, down;

  /// From a source of in_height x in_width; the window is rows x columns at (top, left) of the result.
  resample_plan(int in_height, int in_width, std::int64_t height, std::int64_t width, std::int64_t top,
                std::int64_t left, int rows, int columns, resize_filter filter)
      : across{make_axis_weights(in_width, width, left, columns, filter)},
        down{make_axis_weights(in_height, height, top, rows, filter)} {}

  /// The source's pixels that the window follows from.
  [[nodiscard]] pixel_box reads() const {
    auto const length = [](axis_weights const& a) { return a.first.back() + a.taps - a.first.front(); };  // they ascend
    return {down.first.front(), across.first.front(), length(down), length(across)};
  }
  /// Takes those pixels for the source.
  void begin_at(pixel_box part) {
    for (int& first : down.first) first -= part.top;
    for (int& first : across.first) first -= part.left;
  }
};

/// The window of a plan whose source is `box` of p.
///
/// Horizontally first, rounded to bytes, then vertically, as Pillow does; both passes are pixel by pixel, so a window
/// holds the same bytes as the whole. The caller has checked box and window.
inline picture resample(picture const& p, pixel_box box, resample_plan const& plan) {
  axis_weights const& down = plan.down;
  int const begin = down.first.front(), rows = static_cast<int>(down.first.size());
  int const used = down.first.back() + down.taps - begin;
  picture const narrow = resample_columns(p, box, begin, used, plan.across);
  picture out{rows, narrow.width};
  for (int y = 0; y < rows; ++y) {
    auto const i = static_cast<std::size_t>(y);
    combine_rows(narrow.row(down.first[i] - begin), narrow.stride(),
                 down.weight.data() + i * static_cast<std::size_t>(down.taps), down.taps, out.row(y), out.stride());
  }
  return out;
}

/// Throws shape_error unless the box has a pixel and lies inside a picture of height x width.
inline void require_box(char const* what, pixel_box box, int height, int width) {
  if (box.top < 0 || box.left < 0 || box.height < 1 || box.width < 1 || box.height > height - box.top ||
      box.width > width - box.left)
    throw shape_error{std::string{what} + ": the box (top " + std::to_string(box.top) + ", left " +
                      std::to_string(box.left) + ", height " + std::to_string(box.height) + ", width " +
                      std::to_string(box.width) + ") is not inside the picture of " + std::to_string(height) + " x " +
                      std::to_string(width)};
}

inline void require_output(char const* what, int height, int width) {
  if (height < 1 || width < 1)
    throw shape_error{std::string{what} + ": the result's height " + std::to_string(height) + " and width " +
                      std::to_string(width) + " must be at least 1"};
}

}  // namespace detail

/// The pixels in `box`, resized to out_height x out_width: Pillow's p.crop(box).resize(size, filter), byte for byte.
/// The filter sees nothing outside the box. This is what both of training's random resizes do.
///
/// Throws shape_error if p or the result has no pixel, or the box is empty or leaves the picture.
[[nodiscard]] inline picture resized_crop(picture const& p, pixel_box box, int out_height, int out_width,
                                          resize_filter filter) {
  require_picture("resized_crop", p);
  detail::require_output("resized_crop", out_height, out_width);
  detail::require_box("resized_crop", box, p.height, p.width);
  if (box.height == out_height && box.width == out_width) return detail::copy_box(p, box);
  return detail::resample(p, box, {box.height, box.width, out_height, out_width, 0, 0, out_height, out_width, filter});
}

/// p resized to out_height x out_width: Pillow's p.resize(size, filter), byte for byte.
///
/// Throws shape_error if p or the result has no pixel.
[[nodiscard]] inline picture resize(picture const& p, int out_height, int out_width, resize_filter filter) {
  return resized_crop(p, {0, 0, p.height, p.width}, out_height, out_width, filter);
}

}  // namespace dm2
