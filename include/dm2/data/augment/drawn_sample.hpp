/// @file
/// Everything random of a training sample, drawn before a pixel is read.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/augment/draw_box.hpp>
#include <dm2/data/augment/draw_operation.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <optional>
#include <vector>

namespace dm2 {

/// What training does to one picture, as numbers: a function of its size and of the random stream. Whoever executes it
/// draws nothing more but the noise, so that a device can do it as well as the host, with the same bytes.
struct drawn_sample {
  bool flip = false;                               ///< mirrored left to right, first
  std::vector<drawn_operation> operations{};       ///< then these, in this order
  pixel_box crop{};                                ///< then cut: of the flipped picture
  resize_filter filter = resize_filter::bilinear;  ///< with which the crop is resized
  std::optional<pixel_box> erased{};               ///< of the resized crop, filled with noise
  random_stream noise{0, 0, 0};                    ///< the stream behind the draws, that the noise is drawn from
};

/// Draws a sample of a picture of height x width that becomes out_height x out_width, all at least 1, from a stream in
/// the recipe's order. `a` has been checked (require_augmentation).
[[nodiscard]] inline drawn_sample draw_sample(augmentation const& a, int height, int width, int out_height,
                                              int out_width, random_stream random) {
  drawn_sample d;
  d.flip = random.chance(a.flip);
  for (int i = 0; i < a.operations; ++i)
    if (auto const operation = draw_operation(a, random)) d.operations.push_back(*operation);
  d.crop = draw_crop(a, height, width, random);
  d.filter = draw_filter(random);
  d.erased = draw_erasing(a, out_height, out_width, random);
  d.noise = random;
  return d;
}

/// How many pixels around a pixel an operation looks at; nothing where it looks at the whole picture, or moves pixels.
[[nodiscard]] constexpr std::optional<int> operation_reach(augment_operation operation) noexcept {
  using enum augment_operation;
  if (operation == sharpness) return 1;
  if (operation == auto_contrast || operation == equalize || operation == contrast || is_geometric(operation))
    return std::nullopt;
  return 0;
}

/// The part of a picture of height x width, as it is stored, that the sample's pixels follow from.
[[nodiscard]] inline pixel_box needed_part(drawn_sample const& d, int height, int width) {
  int margin = 0;
  for (drawn_operation const& o : d.operations) {
    auto const reach = operation_reach(o.operation);
    if (!reach) return {0, 0, height, width};
    margin += *reach;
  }
  int const top = std::max(0, d.crop.top - margin), bottom = std::min(height, d.crop.top + d.crop.height + margin);
  int const left = std::max(0, d.crop.left - margin), right = std::min(width, d.crop.left + d.crop.width + margin);
  return {top, d.flip ? width - right : left, bottom - top, right - left};
}

}  // namespace dm2
