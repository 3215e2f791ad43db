/// @file
/// Flips, rotates, shears and moves a picture with its label map.
///
/// As in the recipe, an angle or a shear counts in pixels on the picture and in cells on the map, so that where cells
/// are not square the two part by the cells' aspect; and the map's origin is a cell's centre, not its corner.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/host_device.hpp>
#include <dm2/data/augment/operation.hpp>
#include <dm2/data/augment/warp.hpp>
#include <dm2/data/augment/warp_map.hpp>
#include <dm2/data/label_map_data.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <utility>

namespace dm2 {
namespace detail {

/// Cosine and sine.
struct turn {
  double cos, sin;
};

/// v to 15 decimals, to nearest.
[[nodiscard]] inline double to_15_decimals(double v) {
  char text[32];
  auto const end = std::to_chars(text, text + sizeof text, v, std::chars_format::fixed, 15).ptr;
  std::from_chars(text, end, v);
  return v;
}

/// Of an angle in degrees, to 15 decimals, so that right angles are exact.
[[nodiscard]] inline turn turn_by(double degrees) {
  double const radians = degrees * (std::numbers::pi / 180);
  return {to_15_decimals(std::cos(radians)), to_15_decimals(std::sin(radians))};
}

/// a x + b y, each product and the sum rounded.
[[nodiscard]] inline double sum_of_products(double a, double x, double b, double y) noexcept {
  return rounded_product(a, x) + rounded_product(b, y);
}

}  // namespace detail

/// Mirrors p left to right. Throws shape_error if p has no pixel.
inline void flip(picture& p) {
  require_picture("flip", p);
  for (int y = 0; y < p.height; ++y)
    for (std::uint8_t *left = p.row(y), *right = left + p.stride() - 3; left < right; left += 3, right -= 3)
      std::swap_ranges(left, left + 3, right);
}

/// Mirrors a label map left to right. Throws shape_error if its values disagree with its sides.
inline void flip(label_map_data& map) {
  require_label_map("flip", map);
  auto const width = static_cast<std::ptrdiff_t>(map.width);
  for (auto row = map.values.begin(); row != map.values.end(); row += width) std::reverse(row, row + width);
}

/// Where the pixels of a picture of height x width come from in a geometric operation (is_geometric), by apply()'s
/// argument; nothing where each stays in its place. Throws shape_error if a rotation's degrees are not finite.
[[nodiscard]] inline std::optional<affine_map> geometric_map(augment_operation operation, double argument, int height,
                                                             int width) {
  using enum augment_operation;
  switch (operation) {
    case rotate: {
      if (!std::isfinite(argument)) throw shape_error{"rotate: the angle must be finite"};
      double degrees = std::fmod(argument, 360.0);
      if (degrees < 0) degrees += 360;
      if (degrees == 0) return std::nullopt;
      auto const [cos, sin] = detail::turn_by(-degrees);
      double const x = width / 2.0, y = height / 2.0;
      return affine_map{cos,  sin, detail::sum_of_products(cos, -x, sin, -y) + x,
                        -sin, cos, detail::sum_of_products(-sin, -x, cos, -y) + y};
    }
    case shear_x:
      return affine_map{1, argument, 0, 0, 1, 0};
    case shear_y:
      return affine_map{1, 0, 0, argument, 1, 0};
    case translate_x:
      return affine_map{1, 0, argument * width, 0, 1, 0};
    case translate_y:
      return affine_map{1, 0, 0, 0, 1, argument * height};
    default:
      return std::nullopt;
  }
}

namespace detail {

/// One geometric operation on a picture.
inline void move_pixels(augment_operation operation, picture& p, double argument, resize_filter filter,
                        colour const& fill) {
  require_picture(name_of(operation).data(), p);
  if (auto const map = geometric_map(operation, argument, p.height, p.width)) warp(p, *map, filter, fill);
}

}  // namespace detail

/// Turns p counter-clockwise about its centre. Throws shape_error if p has no pixel or degrees is not finite.
inline void rotate(picture& p, double degrees, resize_filter filter, colour const& fill = imagenet_colour) {
  detail::move_pixels(augment_operation::rotate, p, degrees, filter, fill);
}

/// The same for a label map.
inline void rotate(label_map_data& map, double degrees) {
  if (!std::isfinite(degrees)) throw shape_error{"rotate: the angle must be finite"};
  auto const [cos, sin] = detail::turn_by(degrees);
  double const x = map.width / 2.0, y = map.height / 2.0;
  warp(map, {cos, sin, detail::sum_of_products(cos, -y, sin, -x) + y, -sin, cos,
             detail::sum_of_products(-sin, -y, cos, -x) + x});
}

/// Row y shows what was `factor` * y further right. Throws as warp does, as all of these do.
inline void shear_x(picture& p, double factor, resize_filter filter, colour const& fill = imagenet_colour) {
  detail::move_pixels(augment_operation::shear_x, p, factor, filter, fill);
}
/// The same for a label map.
inline void shear_x(label_map_data& map, double factor) { warp(map, {1, 0, 0, factor, 1, 0}); }

/// Column x shows what was `factor` * x further down.
inline void shear_y(picture& p, double factor, resize_filter filter, colour const& fill = imagenet_colour) {
  detail::move_pixels(augment_operation::shear_y, p, factor, filter, fill);
}
/// The same for a label map.
inline void shear_y(label_map_data& map, double factor) { warp(map, {1, factor, 0, 0, 1, 0}); }

/// Moves p left by `part` of its width.
inline void translate_x(picture& p, double part, resize_filter filter, colour const& fill = imagenet_colour) {
  detail::move_pixels(augment_operation::translate_x, p, part, filter, fill);
}
/// The same for a label map.
inline void translate_x(label_map_data& map, double part) { warp(map, {1, 0, 0, 0, 1, part * map.width}); }

/// Moves p up by `part` of its height.
inline void translate_y(picture& p, double part, resize_filter filter, colour const& fill = imagenet_colour) {
  detail::move_pixels(augment_operation::translate_y, p, part, filter, fill);
}
/// The same for a label map.
inline void translate_y(label_map_data& map, double part) { warp(map, {1, 0, part * map.height, 0, 1, 0}); }

}  // namespace dm2
