/// @file
/// From a decoded picture to the network's input: the evaluation transform, and normalisation.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/normalisation.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resize.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

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

}  // namespace detail

namespace detail {

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

/// out[c, i] = (pixels[i, c] / 255 - mean[c]) / std[c]
///
/// Shapes   pixels [n, 3] bytes; out [3, n], planar, overwritten.
/// Rounding each of the three operations is rounded to float32 in that order, as torchvision's to_tensor and normalize
///          do, so the values are equal to the last bit.
/// Throws   shape_error if the sizes differ or are no multiple of 3; nothing is written then.
inline void normalise(std::span<std::uint8_t const> pixels, std::span<float> out,
                      normalisation const& n = imagenet_normalisation) {
  require_extent("normalise: out", out.size(), pixels.size());
  std::size_t const plane = pixels.size() / 3;
  require_extent("normalise: pixels", pixels.size(), 3 * plane);
  for (std::size_t c = 0; c < 3; ++c) {
    std::array<float, 256> value;  // a byte has few values: look them up instead of dividing twice a pixel
    for (std::size_t v = 0; v < 256; ++v) value[v] = (static_cast<float>(v) / 255.0f - n.mean[c]) / n.std[c];
    std::uint8_t const* const from = pixels.data() + c;
    float* const to = out.data() + c * plane;
    for (std::size_t i = 0; i < plane; ++i) to[i] = value[from[3 * i]];
  }
}

/// The same for a picture: out [3, height, width]. Throws shape_error if it has no pixel, too.
inline void normalise(picture const& p, std::span<float> out, normalisation const& n = imagenet_normalisation) {
  require_picture("normalise", p);
  normalise(std::span<std::uint8_t const>{p.pixels}, out, n);
}

}  // namespace dm2
