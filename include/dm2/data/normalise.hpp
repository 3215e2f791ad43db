/// @file
/// Bytes of pixels to the numbers that the network takes.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/normalisation.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dm2 {

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

}  // namespace dm2
