/// @file
/// One RandAugment operation, by its name and argument.
#pragma once

#include <dm2/data/augment/enhance.hpp>
#include <dm2/data/augment/geometry.hpp>
#include <dm2/data/augment/lookup.hpp>
#include <dm2/data/augment/operation.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>

namespace dm2 {

/// Applies `operation` to p and, where it is geometric, to `map` (null: there is none), both in place.
///
/// argument  rotate: degrees counter-clockwise; shear: pixels a pixel; translate: part of the side; posterize: bits
///           kept; solarize: threshold; solarize_add: levels; color, contrast, brightness, sharpness: factor, 1 for no
///           change; the others ignore it.
/// filter    of geometric operations on the picture.
/// Throws    shape_error if p has no pixel, or the map's values disagree with its sides.
inline void apply(augment_operation operation, picture& p, label_map_data* map, double argument, resize_filter filter,
                  colour const& fill = imagenet_colour) {
  using enum augment_operation;
  auto const both = [&](auto const& f) {
    if (map != nullptr) require_label_map("apply", *map);
    f(p, filter, fill);
    if (map != nullptr) f(*map);
  };
  int const whole = static_cast<int>(std::min(1e6, std::max(-1e6, argument)));  // for the operations that count
  switch (operation) {
    case auto_contrast:
      return dm2::auto_contrast(p);
    case equalize:
      return dm2::equalize(p);
    case invert:
      return dm2::invert(p);
    case posterize:
      return dm2::posterize(p, whole);
    case solarize:
      return dm2::solarize(p, whole);
    case solarize_add:
      return dm2::solarize_add(p, whole);
    case color:
      return enhance_color(p, argument);
    case contrast:
      return enhance_contrast(p, argument);
    case brightness:
      return enhance_brightness(p, argument);
    case sharpness:
      return enhance_sharpness(p, argument);
    case rotate:
      return both([&](auto& of, auto const&... how) { dm2::rotate(of, argument, how...); });
    case shear_x:
      return both([&](auto& of, auto const&... how) { dm2::shear_x(of, argument, how...); });
    case shear_y:
      return both([&](auto& of, auto const&... how) { dm2::shear_y(of, argument, how...); });
    case translate_x:
      return both([&](auto& of, auto const&... how) { dm2::translate_x(of, argument, how...); });
    case translate_y:
      return both([&](auto& of, auto const&... how) { dm2::translate_y(of, argument, how...); });
  }
}

/// What apply() does to the label map alone: nothing where the operation is not geometric. Throws shape_error if the
/// map's values disagree with its sides.
inline void apply_to_map(augment_operation operation, label_map_data& map, double argument) {
  using enum augment_operation;
  if (!is_geometric(operation)) return;
  require_label_map("apply", map);
  switch (operation) {
    case rotate:
      return dm2::rotate(map, argument);
    case shear_x:
      return dm2::shear_x(map, argument);
    case shear_y:
      return dm2::shear_y(map, argument);
    case translate_x:
      return dm2::translate_x(map, argument);
    default:
      return dm2::translate_y(map, argument);
  }
}

}  // namespace dm2
