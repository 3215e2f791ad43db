/// @file
/// The pixels that evaluation keeps of a picture, and their places.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resize.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2 {

/// The extent that evaluation resizes to before it crops `crop`: 8/7 of it, rounded down (224 -> 256), the published
/// crop fraction of 0.875.
[[nodiscard]] constexpr image_extent evaluation_resize(image_extent crop) noexcept {
  auto const grow = [](int side) { return static_cast<int>(std::int64_t{side} * 8 / 7); };
  return {grow(crop.height), grow(crop.width)};
}

namespace detail {

/// Where a centre crop falls along one axis of `size` pixels.
struct centred {
  std::int64_t first;  ///< first pixel of the axis that is kept
  int count;           ///< pixels kept
  int before;          ///< black pixels in front of them
};

/// torchvision's center_crop: an axis shorter than the crop is padded, the odd pixel behind; a longer one is cut, its
/// offset (size - crop) / 2 rounded half to even.
[[nodiscard]] constexpr centred centre(std::int64_t size, int crop) noexcept {
  if (size < crop) return {0, static_cast<int>(size), static_cast<int>((crop - size) / 2)};
  std::int64_t const spare = size - crop, half = spare / 2;
  return {spare % 2 == 1 && half % 2 == 1 ? half + 1 : half, crop, 0};
}

/// What evaluation does to a picture of some size: which pixels of the resized one it keeps, and where they go.
struct evaluation_crop {
  image_extent crop;
  std::int64_t height, width;  ///< of the resized picture
  centred down, across;

  evaluation_crop(int rows, int columns, image_extent to, image_extent resize)
      : crop{to}, height{resize.height}, width{resize.width}, down{}, across{} {
    require_output("evaluation_transform: crop", crop.height, crop.width);
    require_output("evaluation_transform: resize", resize.height, resize.width);
    if (height * columns >= width * rows)
      width = height * columns / rows;
    else
      height = width * rows / columns;
    down = centre(height, crop.height);
    across = centre(width, crop.width);
  }
  /// The weights that make the kept pixels of a picture of that size.
  [[nodiscard]] resample_plan weights(int rows, int columns) const {
    return {rows, columns, height, width, down.first, across.first, down.count, across.count, resize_filter::bilinear};
  }
  /// The kept pixels, filled up with black where they are fewer than the crop's.
  [[nodiscard]] picture filled(picture kept) const {
    if (kept.height == crop.height && kept.width == crop.width) return kept;
    picture out{crop.height, crop.width};
    for (int y = 0; y < kept.height; ++y)
      std::copy_n(kept.row(y), kept.stride(), out.row(down.before + y) + 3 * static_cast<std::size_t>(across.before));
    return out;
  }
};

}  // namespace detail

}  // namespace dm2
