/// @file
/// The training transform, from a decoded picture and its label map: the recipe's random transform.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/label_map.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/augment/apply.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/augment/drawn_sample.hpp>
#include <dm2/data/augment/picture_task.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/data/transform.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

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

namespace detail {

/// The sizes and the augmentation of a training transform; throws as training_transform does.
inline void require_training(augmentation const& a, label_map_data const* map, int height, int width,
                             std::span<float const> out) {
  require_augmentation(a);
  require_output("training_transform", height, width);
  require_extent("training_transform: out", out.size(), 3 * std::size_t(height) * std::size_t(width));
  if (map != nullptr) require_label_map("training_transform: map", *map);
}

}  // namespace detail

/// The pixels of a drawn sample, before they are normalised and erased, and what apply_drawn does to the map.
///
/// Shapes   the result is [height, width, 3].
/// Throws   as apply_drawn.
[[nodiscard]] inline picture drawn_pixels(drawn_sample const& d, picture p, pixel_box part, int source_width,
                                          label_map_data* map, augmentation const& a, int height, int width) {
  require_picture("drawn_pixels", p);
  int const left = d.flip ? source_width - part.left - part.width : part.left;  // of the part, in the flipped picture
  if (d.flip) {
    flip(p);
    if (map != nullptr) flip(*map);
  }
  for (drawn_operation const& o : d.operations) apply(o.operation, p, map, o.argument, o.filter, a.fill);
  pixel_box const box{d.crop.top - part.top, d.crop.left - left, d.crop.height, d.crop.width};
  return resized_crop(p, box, height, width, d.filter);
}

/// The crop of a drawn sample, as fractions of the picture.
[[nodiscard]] inline crop_fraction drawn_crop(drawn_sample const& d, int source_height, int source_width) {
  return {double(d.crop.top) / source_height, double(d.crop.left) / source_width, double(d.crop.height) / source_height,
          double(d.crop.width) / source_width};
}

/// Executes a drawn sample of a picture of source_height x source_width, of which `p` is needed_part, or `part` where
/// that is more.
///
/// Shapes   out [3, to.height, to.width], planar, overwritten.
/// Writes   map (null: there is none) is flipped and warped in place as the picture is, but not cropped; d.noise goes
///          on behind the noise.
/// Returns  the crop, as fractions of the picture: where in `map` the result is.
/// Throws   shape_error if p has no pixel, the crop is not in it, or a size disagrees.
inline crop_fraction apply_drawn(drawn_sample& d, picture p, pixel_box part, int source_height, int source_width,
                                 label_map_data* map, augmentation const& a, image_extent to, std::span<float> out) {
  normalise(drawn_pixels(d, std::move(p), part, source_width, map, a, to.height, to.width), out, a.norm);
  if (d.erased) erase_box(out, to.height, to.width, *d.erased, d.noise);
  return drawn_crop(d, source_height, source_width);
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
  detail::require_training(a, map, height, width, out);
  require_picture("training_transform", p);
  int const rows = p.height, columns = p.width;
  drawn_sample d = draw_sample(a, rows, columns, height, width, random);
  crop_fraction const crop =
      apply_drawn(d, std::move(p), {0, 0, rows, columns}, rows, columns, map, a, {height, width}, out);
  random = d.noise;
  return crop;
}

/// The same of a picture that is not decoded yet, with the same result: of it no more is decoded than the sample needs,
/// about half of the samples of the published recipe needing their crop alone. Throws file_error too, as
/// encoded_picture::part does.
inline crop_fraction training_transform(encoded_picture& p, label_map_data* map, augmentation const& a, int height,
                                        int width, random_stream& random, std::span<float> out) {
  detail::require_training(a, map, height, width, out);
  drawn_sample d = draw_sample(a, p.height(), p.width(), height, width, random);
  pixel_box const part = needed_part(d, p.height(), p.width());
  crop_fraction const crop = apply_drawn(d, p.part(part), part, p.height(), p.width(), map, a, {height, width}, out);
  random = d.noise;
  return crop;
}

/// Leaves a picture encoded where the place takes such and the file is one that a device decodes; else does nothing.
[[nodiscard]] inline bool leave_encoded(encoded_picture const& p, picture_task const& task, raw_place const& to) {
  if (!to.takes_encoded()) return false;
  auto const jpeg = p.for_device();
  return jpeg && to.take_encoded(task, *jpeg);
}

/// The same, but that the pixels are left for a device to finish: draws, decodes (or leaves that to the device, too)
/// and describes. A picture that does not fit its batch's memory is finished here.
///
/// Writes   to (its task and pixels); map, as above.
inline crop_fraction training_transform(encoded_picture& p, label_map_data* map, augmentation const& a,
                                        random_stream& random, raw_place const& to) {
  auto const [height, width] = to.size();
  int const rows = p.height(), columns = p.width();
  drawn_sample const d = draw_sample(a, rows, columns, height, width, random);
  random = d.noise;
  picture_task const task = plan_sample(d, a, rows, columns, height, width, to.steps());
  auto const change_map = [&] {
    if (map == nullptr) return;
    if (d.flip) flip(*map);
    for (drawn_operation const& o : d.operations) apply_to_map(o.operation, *map, o.argument);
  };
  if (leave_encoded(p, task, to)) {
    change_map();
  } else if (std::uint8_t* const pixels = to.take(task)) {
    p.part_into(task.part, pixels);
    change_map();
  } else {
    pixel_box const part = needed_part(d, rows, columns);
    picture const done = drawn_pixels(d, p.part(part), part, columns, map, a, height, width);
    std::copy(done.pixels.begin(), done.pixels.end(), to.take_finished(task));
  }
  return drawn_crop(d, rows, columns);
}

}  // namespace dm2
