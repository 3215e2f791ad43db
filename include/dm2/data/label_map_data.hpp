/// @file
/// A picture's token-label map.
#pragma once

#include <dm2/core/compiler.hpp>

#include <vector>

namespace dm2 {

/// A label map as planes of floats: the scores of the five likeliest classes at each point of a coarse grid over the
/// picture, then the indices of those classes.
struct label_map_data {
  int height = 0;             ///< points down
  int width = 0;              ///< points across
  std::vector<float> values;  ///< [2, 5, height, width]: scores, then class indices (whole numbers)
};

}  // namespace dm2
