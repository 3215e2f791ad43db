/// @file
/// What operations take: parameters grouped by operation, shared by every backend.
///
/// Each group is a set of views; with element type `T const` they are parameters, with `T` gradients to add to.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace dm2 {

/// Weight and bias of a linear layer, or their gradients. A bias that is a view of nothing is absent.
template <class T, int N, int K, space S = space::host>
struct linear_parameters {
  block<T, S, N, K> weight;
  block<T, S, N> bias;
};

/// A norm and the projection that reads it, or their gradients.
template <class T, int N, int K, space S = space::host>
struct norm_projection {
  block<T, S, K> norm;
  linear_parameters<T, N, K, S> in;
};

/// The state of the residual stream where a norm reads it: what its backward needs.
template <class T, int D, space S = space::host>
struct norm_point {
  rows<T, D, S> residual;  ///< [R, D], after the addition
  T* rstd;                 ///< [R], the norm's 1 / root mean square
};

/// Trained parameters of the stem, or their gradients.
template <stem_shape S, class T, space M = space::host>
struct stem_parameters {
  block<T, M, S.hidden, S.channels, 7, 7> conv1;
  std::array<block<T, M, S.hidden, S.hidden, 3, 3>, 2> conv;  ///< the second and third convolution
  std::array<block<T, M, S.hidden>, 3> bn_weight, bn_bias;
  block<T, M, S.dim, S.hidden, S.patch / 2, S.patch / 2> proj;
  block<T, M, S.dim> proj_bias;
};

/// BatchNorm's running statistics.
template <stem_shape S, class T, space M = space::host>
struct stem_statistics {
  std::array<block<T, M, S.hidden>, 3> mean, var;
};

/// What stem_forward_train leaves for stem_backward, beside the picture: the convolutions' raw outputs and the batch's
/// statistics. 12.8 MB a picture at Tiny's size in float.
template <stem_shape S, class T>
struct stem_saved {
  std::array<T*, 3> raw, mean, rstd;  ///< raw [B, H / 2, W / 2, hidden]; mean, rstd [hidden]

  stem_saved(arena& a, int batch) {
    for (int i = 0; i < 3; ++i) {
      raw[std::size_t(i)] = a.take<T>(std::size_t(batch) * S.half_height() * S.half_width() * S.hidden);
      mean[std::size_t(i)] = a.take<T>(S.hidden);
      rstd[std::size_t(i)] = a.take<T>(S.hidden);
    }
  }
};

/// Parameters (or their gradients) of one direction of the mixer.
template <mixer_shape M, class T, space S = space::host>
struct mixer_direction {
  block<T, S, M.conv_dim(), 1, M.d_conv> conv;  ///< taps, last one the present token
  block<T, S, M.conv_dim()> conv_bias;
  block<T, S, M.heads> dt_bias;
  block<T, S, M.heads> a_log;  ///< A = -exp(A_log)
  block<T, S, M.heads> d;      ///< skip term; in the published variant both directions read the first one's
  block<T, S, M.d_inner()> norm;
};

/// Both directions.
template <mixer_shape M, class T, space S = space::host>
struct mixer_parameters {
  mixer_direction<M, T, S> forward, backward;
};

/// Taps and bias of the attention's convolution, or their gradients; views of nothing where it has none.
template <attention_shape A, class T, space S = space::host>
struct attention_parameters {
  static constexpr int taps = A.d_conv == 0 ? 1 : A.d_conv;
  block<T, S, 3 * A.width(), 1, taps> conv;
  block<T, S, 3 * A.width()> conv_bias;
};

/// Both classifiers' parameters, or their gradients.
template <class T, int K, int D, space S = space::host>
struct head_parameters {
  linear_parameters<T, K, D, S> cls, aux;
};

/// A box on the patch grid, half open: rows [row0, row1), columns [col0, col1).
struct mix_box {
  int row0 = 0, row1 = 0, col0 = 0, col1 = 0;

  [[nodiscard]] constexpr int area() const { return std::max(0, row1 - row0) * std::max(0, col1 - col0); }
};

}  // namespace dm2
