/// @file
/// Arguments of project_add_norm's kernels, forward and backward.
#pragma once

namespace dm2::cuda::detail::project_add_norm {

/// What a launch gets: pointers that a form does not read are null.
template <class T>
struct arguments {
  T const* g = nullptr;             ///< [R, K]
  float const* squares = nullptr;   ///< [R, 2, U]
  T const* out = nullptr;           ///< [D, K]
  float const* out_bias = nullptr;  ///< [D] or null
  float const* before = nullptr;    ///< [R, D]
  float* after = nullptr;           ///< [R, D], may be `before`
  float* rstd = nullptr;            ///< [R] or null
  float const* norm = nullptr;      ///< [D]
  T const* in = nullptr;            ///< [N, D]
  float const* in_bias = nullptr;   ///< [N] or null
  T* y = nullptr;                   ///< [R, N], or [R, D] where N is 0
  int count = 0;                    ///< R
  float eps = 0;
};

/// What a launch of the backward gets.
template <class T>
struct backward_arguments {
  T const* dy = nullptr;            ///< [R, N]
  T const* in = nullptr;            ///< [N, D]
  float const* residual = nullptr;  ///< [R, D]
  float const* rstd = nullptr;      ///< [R]
  float const* norm = nullptr;      ///< [D]
  float* dresidual = nullptr;       ///< [R, D], updated
  T* normed = nullptr;              ///< [R, D], the normed rows
  T* rounded = nullptr;             ///< [R, D], dresidual
  T const* out = nullptr;           ///< [D, K]
  T* dg = nullptr;                  ///< [R, K]
  float* parts = nullptr;           ///< [blocks, D], sums of the norm's gradient
  int count = 0;                    ///< R
};

}  // namespace dm2::cuda::detail::project_add_norm
