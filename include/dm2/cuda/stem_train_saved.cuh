/// @file
/// What the stem keeps from its training forward for its backward.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>

#include <array>
#include <cstddef>

namespace dm2::cuda {

/// What stem_forward_train leaves for stem_backward, beside the pictures: the convolutions' raw outputs in elements of
/// T, and the batch's statistics.
template <stem_shape S, class T>
struct stem_saved {
  /// Numbers of one raw output of a picture.
  static constexpr std::size_t plane = std::size_t(S.half_height()) * S.half_width() * S.hidden;
  /// Bytes that grow with the batch: 4.8 MB a picture at Tiny's size in 16 bits.
  static constexpr std::size_t bytes_per_picture = 3 * plane * sizeof(T);

  /// Each convolution's output before BatchNorm: [B, H / 2, W / 2, hidden]; the third one's pixels lie patch after
  /// patch, [B, tokens, patch / 2, patch / 2, hidden], so that a patch is a row of the projection's operand.
  std::array<T*, 3> raw;
  std::array<float*, 3> mean;  ///< [hidden], of the batch
  std::array<float*, 3> rstd;  ///< [hidden], 1 / sqrt(variance + eps)

  /// Takes its memory from a, for `batch` pictures.
  stem_saved(arena& a, int batch) {
    for (std::size_t i = 0; i < 3; ++i) {
      raw[i] = a.take<T>(std::size_t(batch) * plane);
      mean[i] = a.take<float>(S.hidden);
      rstd[i] = a.take<float>(S.hidden);
    }
  }
};

}  // namespace dm2::cuda
