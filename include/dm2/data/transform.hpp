/// @file
/// From a picture to the network's input: the evaluation transform.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/evaluation_crop.hpp>
#include <dm2/data/normalise.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resize.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dm2 {

/// Resizes p, bilinear and antialiased, to cover `resize`, then crops `crop` at the centre. The result is
/// [crop.height, crop.width, 3].
///
/// The picture keeps its aspect: one side becomes exactly resize's, the other at least resize's, truncated to an
/// integer. For a square `resize` that is torchvision's Resize(n) (the shorter side to n), and the whole is its
/// CenterCrop(Resize(picture)), byte for byte; a crop larger than the resized picture is filled up with black as there.
/// Only the pixels that the crop keeps are computed.
///
/// Throws shape_error if p has no pixel or an extent is smaller than 1.
[[nodiscard]] inline picture evaluation_transform(picture const& p, image_extent crop, image_extent resize) {
  require_picture("evaluation_transform", p);
  detail::evaluation_crop const plan{p.height, p.width, crop, resize};
  return plan.filled(detail::resample(p, {0, 0, p.height, p.width}, plan.weights(p.height, p.width)));
}

/// The same of a picture that is not decoded yet, with the same result: no more is decoded than the crop follows from.
/// Throws file_error too, as encoded_picture::part does.
[[nodiscard]] inline picture evaluation_transform(encoded_picture& p, image_extent crop, image_extent resize) {
  detail::evaluation_crop const plan{p.height(), p.width(), crop, resize};
  detail::resample_plan weights = plan.weights(p.height(), p.width());
  pixel_box const part = weights.reads();
  weights.begin_at(part);
  return plan.filled(detail::resample(p.part(part), {0, 0, part.height, part.width}, weights));
}

/// The same for a rectangle, with evaluation_resize(crop).
[[nodiscard]] inline picture evaluation_transform(picture const& p, image_extent crop) {
  return evaluation_transform(p, crop, evaluation_resize(crop));
}
/// The same of a picture that is not decoded yet.
[[nodiscard]] inline picture evaluation_transform(encoded_picture& p, image_extent crop) {
  return evaluation_transform(p, crop, evaluation_resize(crop));
}

/// The same for squares: shorter side to `resize`, centre crop of size x size. The defaults are the published ones.
[[nodiscard]] inline picture evaluation_transform(picture const& p, int size = 224, int resize = 256) {
  return evaluation_transform(p, image_extent{size, size}, image_extent{resize, resize});
}

/// normalise of a picture: out [3, height, width]. Throws shape_error if it has no pixel, too.
inline void normalise(picture const& p, std::span<float> out, normalisation const& n = imagenet_normalisation) {
  require_picture("normalise", p);
  normalise(std::span<std::uint8_t const>{p.pixels}, out, n);
}

}  // namespace dm2
