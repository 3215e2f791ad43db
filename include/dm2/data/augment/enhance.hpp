/// @file
/// Augmentations that blend as Pillow's ImageEnhance does, byte for byte.
#pragma once

#include <dm2/core/host_device.hpp>
#include <dm2/data/augment/lookup.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// from + factor * (to - from), truncated to a byte and clamped.
///
/// Pillow rounds the product to float and then the sum. The product is exact in double, so rounding it to float gives
/// the same number, and the compiler cannot fuse it with the sum.
[[nodiscard]] DM2_HOST_DEVICE inline std::uint8_t blend(int from, int to, float factor) noexcept {
  auto const product = static_cast<float>(static_cast<double>(factor) * (to - from));
  float const sum = static_cast<float>(from) + product;
  return static_cast<std::uint8_t>(static_cast<int>(least(255.0f, greatest(0.0f, sum))));  // NaN becomes 0
}

/// Blends with one level everywhere.
inline void blend_with_level(picture& p, int level, float factor) {
  look_up(p, make_table([&](int v) { return blend(level, v, factor); }));
}

/// to[i] = blend of from[i] and to[i].
inline void blend_row(std::uint8_t const* from, std::uint8_t* to, std::size_t n, float factor) noexcept {
  for (std::size_t i = 0; i < n; ++i) to[i] = blend(from[i], to[i], factor);
}

/// Luma of ITU-R 601 in 16-bit fixed point, rounded to nearest.
[[nodiscard]] DM2_HOST_DEVICE inline std::uint32_t luma(std::uint8_t const* rgb) noexcept {
  return (rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16;
}

/// The blur of a level: 1 1 1 / 1 5 1 / 1 1 1 over 13, rounded to nearest; `neighbours` is the sum of the eight.
[[nodiscard]] DM2_HOST_DEVICE inline std::uint8_t blurred(int neighbours, int level) noexcept {
  return static_cast<std::uint8_t>((neighbours + 5 * level + 6) / 13);
}

/// The level that a picture's lumas, whose sum is given, are blended with: their mean, rounded.
[[nodiscard]] DM2_HOST_DEVICE inline int mean_level(std::uint64_t sum, std::uint64_t pixels) noexcept {
  return static_cast<int>(static_cast<double>(sum) / static_cast<double>(pixels) + 0.5);
}

/// One row blurred by 1 1 1 / 1 5 1 / 1 1 1 over 13, rounded to nearest; the first and the last pixel stay.
/// column: scratch for n sums of three rows.
inline void smooth_row(std::uint8_t const* above, std::uint8_t const* row, std::uint8_t const* below, std::size_t n,
                       std::uint16_t* column, std::uint8_t* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) column[i] = static_cast<std::uint16_t>(above[i] + row[i] + below[i]);
  std::copy_n(row, 3, out);
  std::copy_n(row + n - 3, 3, out + n - 3);
  for (std::size_t i = 3; i < n - 3; ++i) {
    // 13 is odd, so that no sum lies between two levels and integers round as the reference's float32 does
    auto const sum = static_cast<std::uint16_t>(column[i - 3] + column[i] + column[i + 3] + 4 * row[i] + 6);
    out[i] = static_cast<std::uint8_t>(sum / 13);
  }
}

}  // namespace detail

/// Blends a grey picture (factor 0) with the picture (factor 1); beyond 1 colours are exaggerated.
/// Throws shape_error if p has no pixel, as all of these do.
inline void enhance_color(picture& p, double factor) {
  require_picture("enhance_color", p);
  auto const f = static_cast<float>(factor);
  if (f == 1) return;
  std::vector<std::uint8_t> grey(p.stride());
  for (int y = 0; y < p.height; ++y) {
    std::uint8_t* const row = p.row(y);
    for (std::size_t i = 0; i < grey.size(); i += 3)
      grey[i] = grey[i + 1] = grey[i + 2] = static_cast<std::uint8_t>(detail::luma(row + i));
    detail::blend_row(grey.data(), row, grey.size(), f);
  }
}

/// Blends the picture's mean luma (factor 0) with the picture (factor 1).
inline void enhance_contrast(picture& p, double factor) {
  require_picture("enhance_contrast", p);
  auto const f = static_cast<float>(factor);
  if (f == 1) return;
  std::uint64_t sum = 0;
  for (int y = 0; y < p.height; ++y) {
    std::uint8_t const* const row = p.row(y);
    for (std::size_t i = 0; i < p.stride(); i += 3) sum += detail::luma(row + i);
  }
  std::size_t const pixels = p.pixels.size() / 3;
  detail::blend_with_level(p, detail::mean_level(sum, pixels), f);
}

/// Blends black (factor 0) with the picture (factor 1).
inline void enhance_brightness(picture& p, double factor) {
  require_picture("enhance_brightness", p);
  auto const f = static_cast<float>(factor);
  if (f != 1) detail::blend_with_level(p, 0, f);
}

/// Blends a blurred picture (factor 0) with the picture (factor 1); beyond 1 edges are exaggerated. The outermost
/// pixels, and pictures with a side below 3, stay.
inline void enhance_sharpness(picture& p, double factor) {
  require_picture("enhance_sharpness", p);
  auto const f = static_cast<float>(factor);
  if (f == 1 || p.height < 3 || p.width < 3) return;
  std::size_t const n = p.stride();
  std::vector<std::uint16_t> column(n);
  std::vector<std::uint8_t> above(p.row(0), p.row(0) + n), smooth(n);  // above: the row before, as it was
  for (int y = 1; y + 1 < p.height; ++y) {
    std::uint8_t* const row = p.row(y);
    detail::smooth_row(above.data(), row, p.row(y + 1), n, column.data(), smooth.data());
    std::copy_n(row, n, above.begin());
    detail::blend_row(smooth.data(), row, n, f);
  }
}

}  // namespace dm2
