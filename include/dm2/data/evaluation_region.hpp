/// @file
/// The part of a picture that the evaluation transform keeps.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/transform.hpp>

#include <cstdint>
#include <string>

namespace dm2 {

/// A rectangle in pixels of a picture; pixel (y, x) covers [y, y + 1) x [x, x + 1).
struct picture_region {
  double top;     ///< distance from the picture's upper edge; not a whole number in general
  double left;    ///< distance from the picture's left edge
  double height;  ///< rows covered
  double width;   ///< columns covered
};

/// The part of a picture of `height` x `width` that evaluation_transform(picture, crop) keeps.
///
/// Throws   shape_error if a side is smaller than 1.
[[nodiscard]] inline picture_region evaluation_region(int height, int width, image_extent crop) {
  if (height < 1 || width < 1)
    throw shape_error{"evaluation_region: a picture of " + std::to_string(height) + " x " + std::to_string(width)};
  detail::require_output("evaluation_region: crop", crop.height, crop.width);
  image_extent const goal = evaluation_resize(crop);
  std::int64_t rows = goal.height, columns = goal.width;  // of the resized picture
  if (rows * width >= columns * height)
    columns = rows * width / height;
  else
    rows = columns * height / width;
  double const down = double(height) / double(rows), across = double(width) / double(columns);
  double const top = double(detail::centre(rows, crop.height).first),
               left = double(detail::centre(columns, crop.width).first);
  return {top * down, left * across, crop.height * down, crop.width * across};
}

}  // namespace dm2
