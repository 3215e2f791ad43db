/// @file
/// What the stem keeps from its training forward for its backward.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/element.cuh>

#include <array>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// What the stem's forward in training multiplies and saves where gradients are elements T: T, but half for bfloat16.
///
/// A number that rounding carries over ReLU's edge gains or loses all of its gradient. How many are carried over grows
/// with the rounding, so the gradient's error grows with the rounding's square root: with bfloat16 here, nearly two
/// thirds of the squared error of Tiny's whole gradient are this forward's. Half has three bits more at the same speed.
/// Normalised pictures, weights and convolutions are far from its ends; gradients, which are not, stay elements.
template <class T>
using stem_number = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, __half, T>;

/// What stem_forward_train leaves for stem_backward, beside the pictures: the convolutions' raw outputs, and the
/// batch's statistics.
template <stem_shape S, class T>
struct stem_saved {
  /// Numbers of one raw output of a picture.
  static constexpr std::size_t plane = std::size_t(S.half_height()) * S.half_width() * S.hidden;
  /// Bytes that grow with the batch: 4.8 MB a picture at Tiny's size in 16 bits.
  static constexpr std::size_t bytes_per_picture = 3 * plane * sizeof(T);

  /// Each convolution's output before BatchNorm: [B, H / 2, W / 2, hidden]; the third one's pixels lie patch after
  /// patch, [B, tokens, patch / 2, patch / 2, hidden], so that a patch is a row of the projection's operand.
  std::array<stem_number<T>*, 3> raw;
  std::array<float*, 3> mean;  ///< [hidden], of the batch
  std::array<float*, 3> rstd;  ///< [hidden], 1 / sqrt(variance + eps)

  /// Takes its memory from a, for `batch` pictures.
  stem_saved(arena& a, int batch) {
    for (std::size_t i = 0; i < 3; ++i) {
      raw[i] = a.take<stem_number<T>>(std::size_t(batch) * plane);
      mean[i] = a.take<float>(S.hidden);
      rstd[i] = a.take<float>(S.hidden);
    }
  }
};

}  // namespace dm2::cuda
