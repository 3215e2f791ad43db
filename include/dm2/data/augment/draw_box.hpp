/// @file
/// The random rectangles of training: the crop that is kept and the part that is erased.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/resize.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace dm2 {
namespace detail {

/// Height and width in pixels, not yet known to fit.
struct drawn_extent {
  double height, width;
};

/// A rectangle with area uniform in [area_min, area_max] of height x width and the ratio of `across` to `down`
/// log-uniform; sides rounded, halves to even.
[[nodiscard]] inline drawn_extent draw_extent(double pixels, double area_min, double area_max, double ratio_min,
                                              double ratio_max, random_stream& random) {
  double const area = pixels * random.uniform(area_min, area_max);
  double const ratio = std::exp(random.uniform(std::log(ratio_min), std::log(ratio_max)));
  return {std::nearbyint(std::sqrt(area / ratio)), std::nearbyint(std::sqrt(area * ratio))};
}

/// A corner drawn evenly from all that keep the rectangle inside.
[[nodiscard]] inline pixel_box place_box(drawn_extent e, int height, int width, random_stream& random) {
  int const h = static_cast<int>(e.height), w = static_cast<int>(e.width);
  int const top = static_cast<int>(random.below(static_cast<std::uint32_t>(height - h) + 1));
  int const left = static_cast<int>(random.below(static_cast<std::uint32_t>(width - w) + 1));
  return {top, left, h, w};
}

}  // namespace detail

/// The largest centred crop whose ratio of width to height is within the augmentation's bounds.
[[nodiscard]] inline pixel_box fallback_crop(augmentation const& a, int height, int width) noexcept {
  double const ratio = double(width) / double(height);
  double h = height, w = width;
  if (ratio < a.ratio_min)
    h = std::nearbyint(w / a.ratio_min);
  else if (ratio > a.ratio_max)
    w = std::nearbyint(h * a.ratio_max);
  int const rows = static_cast<int>(std::clamp(h, 1.0, double(height)));
  int const columns = static_cast<int>(std::clamp(w, 1.0, double(width)));
  return {(height - rows) / 2, (width - columns) / 2, rows, columns};
}

/// The crop of a picture of height x width: area and ratio drawn up to ten times until the rectangle fits, then its
/// place; otherwise fallback_crop. As torchvision's RandomResizedCrop.get_params.
[[nodiscard]] inline pixel_box draw_crop(augmentation const& a, int height, int width, random_stream& random) {
  double const pixels = double(height) * double(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    auto const e = detail::draw_extent(pixels, a.area_min, a.area_max, a.ratio_min, a.ratio_max, random);
    if (e.height >= 1 && e.height <= height && e.width >= 1 && e.width <= width)
      return detail::place_box(e, height, width, random);
  }
  return fallback_crop(a, height, width);
}

/// The rectangle of height x width to erase: with probability a.erase, area and ratio drawn up to ten times until both
/// sides are shorter than the picture's; none otherwise. As timm's RandomErasing with one rectangle.
[[nodiscard]] inline std::optional<pixel_box> draw_erasing(augmentation const& a, int height, int width,
                                                           random_stream& random) {
  if (!random.chance(a.erase)) return std::nullopt;
  double const pixels = double(height) * double(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    // its ratio is of height to width, so that the two change places
    auto const [w, h] =
        detail::draw_extent(pixels, a.erase_area_min, a.erase_area_max, a.erase_ratio_min, a.erase_ratio_max, random);
    if (h >= 1 && h < height && w >= 1 && w < width) return detail::place_box({h, w}, height, width, random);
  }
  return std::nullopt;
}

}  // namespace dm2
