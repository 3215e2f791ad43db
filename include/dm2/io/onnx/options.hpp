/// @file
/// What an exported ONNX model takes, gives and holds.
#pragma once

#include <dm2/core/normalisation.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dm2 {

/// What an exported model takes as its input `pixel_values`.
enum class onnx_input : std::uint8_t {
  normalised,  ///< float [batch, channels, height, width], as dm2::normalise writes it
  unit,        ///< float [batch, 3, height, width] from 0 to 1, as torchvision's ToTensor writes it
  bytes        ///< uint8 [batch, height, width, 3], as Pillow and NumPy hold a picture
};

/// How a model is exported.
struct onnx_options {
  onnx_input input = onnx_input::normalised;          ///< what `pixel_values` are; others are normalised inside
  normalisation statistics = imagenet_normalisation;  ///< by which they are
  /// Weights and most of the computation in half precision. Inputs and outputs, the residual stream, norms, softmaxes
  /// and the scan's decays and states stay float. A weight over 65504 is refused.
  bool half = false;
  bool features = false;       ///< an output `features` [batch, tokens, dim]: as dm2::model::forward_features
  bool patches = false;        ///< an output `patches` [batch, grid height, grid width, classes]: each patch's logits
  bool external_data = false;  ///< weights in a file of their own, PATH.data; from 1.75 GB on they always are
  int chunk = 0;               ///< tokens of a scan's chunk, at least 1; 0: what costs least
  std::vector<std::string> class_names{};         ///< metadata `class_names`, as many as classes; none: left out
  std::map<std::string, std::string> metadata{};  ///< more metadata; its keys may not be dm2's own
};

}  // namespace dm2
