/// @file
/// Functions for host and GPU, and products with their own rounding.
#pragma once

#include <dm2/core/compiler.hpp>

/// Marks a function that a GPU may call too, where nvcc compiles it.
#ifdef __CUDACC__
#define DM2_HOST_DEVICE __host__ __device__
#else
#define DM2_HOST_DEVICE
#endif

namespace dm2::detail {

/// x * y, rounded to double. A compiler may fuse a product with the sum that it goes into, which has one rounding
/// instead of two and so another last bit; a value that went through memory cannot be fused.
[[nodiscard]] DM2_HOST_DEVICE inline double rounded_product(double x, double y) noexcept {
#ifdef __CUDA_ARCH__
  return __dmul_rn(x, y);
#else
  double volatile v = x * y;
  return v;
#endif
}

/// The smaller one, and the larger one: as std::min and std::max, which device code cannot call.
template <class T>
[[nodiscard]] DM2_HOST_DEVICE constexpr T least(T a, T b) noexcept {
  return b < a ? b : a;
}
/// @copydoc least
template <class T>
[[nodiscard]] DM2_HOST_DEVICE constexpr T greatest(T a, T b) noexcept {
  return a < b ? b : a;
}
/// x within low..high, as std::clamp.
template <class T>
[[nodiscard]] DM2_HOST_DEVICE constexpr T within(T x, T low, T high) noexcept {
  return x < low ? low : high < x ? high : x;
}

}  // namespace dm2::detail
