/// @file
/// The statistics by which a picture's channels are normalised.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>

namespace dm2 {

/// Mean and deviation of each channel of a picture scaled to [0, 1], which normalise subtracts and divides by.
struct normalisation {
  std::array<float, 3> mean;  ///< of red, green and blue, on the scale of 0 to 1
  std::array<float, 3> std;   ///< standard deviation of each, on the same scale; not 0
};

/// ImageNet's statistics, red, green, blue.
inline constexpr normalisation imagenet_normalisation{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

}  // namespace dm2
