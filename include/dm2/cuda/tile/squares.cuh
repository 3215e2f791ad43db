/// @file
/// The factor of a mixer's norm, from its units' sums of squares.
///
/// A mixer may leave its rows before their norm, with the sum of the squares of each unit's columns: [rows, 2, units],
/// of the two directions. Whoever reads the rows multiplies by 1 / sqrt(mean square of the group + 1e-5).
#pragma once

#include <dm2/core/compiler.hpp>

#include <cuda_runtime.h>

#include <cstddef>

namespace dm2::cuda::detail {

/// What the mixer's norm adds to the mean square.
inline constexpr float mixer_norm_eps = 1e-5f;

/// The factor of `Channels` channels whose squares have that sum.
template <int Channels>
__device__ inline float factor_of_squares(float sum) {
  return rsqrtf(sum * (1.f / Channels) + mixer_norm_eps);
}

/// The sum of the squares of `Units` units, in their order.
template <int Units>
__device__ inline float sum_of_units(float const* squares) {
  float sum = 0;
#pragma unroll
  for (int u = 0; u < Units; ++u) sum += squares[u];
  return sum;
}

/// The factor of one direction of a row, Channels of them in one group of Units; squares [count, 2, Units]. Rows from
/// `count` on have no squares, and are zeros themselves.
template <int Channels, int Units>
__device__ inline float factor_of_direction(float const* squares, int row, int direction, int count) {
  std::size_t const place = std::size_t(row) * 2 + std::size_t(direction);
  return factor_of_squares<Channels>(row < count ? sum_of_units<Units>(squares + place * Units) : 0.f);
}

}  // namespace dm2::cuda::detail
