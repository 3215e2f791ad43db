/// @file
/// The compile-time sizes that one operation needs, whatever model it stands in.
#pragma once

#include <dm2/core/compiler.hpp>

namespace dm2 {

/// Height and width in pixels.
struct image_extent {
  int height = 0;  ///< rows of pixels
  int width = 0;   ///< pixels a row
  /// Both sides are equal.
  friend bool operator==(image_extent const&, image_extent const&) = default;
};

/// The second direction of the Mamba-2 mixer.
enum class mixer_variant : unsigned char {
  published,     ///< channels reversed, tokens not; its skip term reads `D` (as the published weights were trained)
  bidirectional  ///< tokens reversed; its skip term reads `D_b`
};

/// Sizes of a bidirectional Mamba-2 mixer between its two projections (Dao & Gu 2024, arXiv 2405.21060).
struct mixer_shape {
  int heads;                                         ///< H
  int headdim;                                       ///< P, channels a head
  int d_state;                                       ///< N
  int groups;                                        ///< G: heads h with equal h / (H / G) share B and C
  int d_conv;                                        ///< K, taps of the causal convolution
  mixer_variant variant = mixer_variant::published;  ///< which the second direction is

  /// H P, channels of x, z and y.
  [[nodiscard]] constexpr int d_inner() const { return heads * headdim; }
  /// Channels that pass the convolution: x, B and C.
  [[nodiscard]] constexpr int conv_dim() const { return d_inner() + 2 * groups * d_state; }
  /// Channels of the input projection: [z, x, B, C, dt].
  [[nodiscard]] constexpr int projected() const { return d_inner() + conv_dim() + heads; }
};

/// Sizes of the attention mixer between its two projections.
struct attention_shape {
  int heads;     ///< H
  int head_dim;  ///< channels a head
  int rotary;    ///< channels of each head that turn with the position; even, 0 for none
  int d_conv;    ///< taps of the causal convolution over q, k and v; 0 leaves it out

  /// H d, channels of q, k and v each.
  [[nodiscard]] constexpr int width() const { return heads * head_dim; }
};

/// Sizes of the convolutional stem.
struct stem_shape {
  int height;    ///< of the picture, in pixels
  int width;     ///< of the picture, in pixels
  int channels;  ///< of the picture
  int hidden;    ///< channels of the three convolutions
  int patch;     ///< pixels a side; the first convolution halves the resolution
  int dim;       ///< channels out

  /// Rows after the first convolution.
  [[nodiscard]] constexpr int half_height() const { return height / 2; }
  /// Columns after the first convolution.
  [[nodiscard]] constexpr int half_width() const { return width / 2; }
  /// Rows of patches.
  [[nodiscard]] constexpr int grid_height() const { return height / patch; }
  /// Patches in a row.
  [[nodiscard]] constexpr int grid_width() const { return width / patch; }
  /// Patches, the class token not counted.
  [[nodiscard]] constexpr int tokens() const { return grid_height() * grid_width(); }
};

}  // namespace dm2
