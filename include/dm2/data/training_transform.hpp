/// @file
/// From a decoded picture and its label map to the network's input in training: the recipe's random transform.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/label_map.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/augment/apply.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/augment/draw_box.hpp>
#include <dm2/data/augment/draw_operation.hpp>
#include <dm2/data/transform.hpp>

#include <cstddef>
#include <optional>
#include <span>

namespace dm2 {

/// Fills `box` of every plane of a picture with standard normal noise, a number a value.
///
/// Shapes   planes [3, height, width].
/// Throws   shape_error if the size disagrees or the box leaves the picture; nothing is written then.
inline void erase_box(std::span<float> planes, int height, int width, pixel_box box, random_stream& random) {
  detail::require_output("erase_box", height, width);
  require_extent("erase_box: planes", planes.size(), 3 * std::size_t(height) * std::size_t(width));
  if (box.top < 0 || box.left < 0 || box.height < 0 || box.width < 0 || box.height > height - box.top ||
      box.width > width - box.left)
    throw shape_error{"erase_box: the box is not inside the picture"};
  for (int c = 0; c < 3; ++c)
    for (int y = box.top; y < box.top + box.height; ++y) {
      std::size_t const row = (std::size_t(c) * std::size_t(height) + std::size_t(y)) * std::size_t(width);
      for (float& v : planes.subspan(row + std::size_t(box.left), std::size_t(box.width))) v = float(random.normal());
    }
}

/// The training transform, in the recipe's order: flip, RandAugment, random resized crop, normalisation, random
/// erasing. Everything random comes from `random`, so that the result depends on the picture and on that only.
///
/// Shapes   out [3, height, width], planar, overwritten.
/// Writes   map (null: there is none) is flipped and warped in place as the picture is, but not cropped.
/// Returns  the crop, as fractions of the picture: where in `map` the result is.
/// Throws   shape_error if p has no pixel, or a size disagrees; std::invalid_argument as require_augmentation does.
inline crop_fraction training_transform(picture p, label_map_data* map, augmentation const& a, int height, int width,
                                        random_stream& random, std::span<float> out) {
  require_augmentation(a);
  require_picture("training_transform", p);
  detail::require_output("training_transform", height, width);
  require_extent("training_transform: out", out.size(), 3 * std::size_t(height) * std::size_t(width));
  if (map != nullptr) require_label_map("training_transform: map", *map);

  if (random.chance(a.flip)) {
    flip(p);
    if (map != nullptr) flip(*map);
  }
  for (int i = 0; i < a.operations; ++i)
    if (auto const o = draw_operation(a, random)) apply(o->operation, p, map, o->argument, o->filter, a.fill);
  pixel_box const box = draw_crop(a, p.height, p.width, random);
  normalise(resized_crop(p, box, height, width, draw_filter(random)), out, a.norm);
  if (auto const hole = draw_erasing(a, height, width, random)) erase_box(out, height, width, *hole, random);
  return {double(box.top) / p.height, double(box.left) / p.width, double(box.height) / p.height,
          double(box.width) / p.width};
}

}  // namespace dm2
