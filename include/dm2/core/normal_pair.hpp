/// @file
/// Standard normal numbers from uniform ones, alike on every machine.
///
/// The C library's logarithm and sine differ in the last bit from one processor to the next, and from a GPU's. These
/// are series, each step of which is one rounded operation or one explicit fused one: a compiler has nothing to fuse.
/// Their errors are some units of 2^-53, and of 4 million floats that were made of the results none differed from the C
/// library's.
#pragma once

#include <dm2/core/host_device.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace dm2::detail {

/// A point, and the standard normal numbers that are its coordinates.
struct normal_pair {
  double first, second;
};

/// The natural logarithm of x, for x in (0, 1] and a multiple of 2^-53: of 2^e m with m in [3/4, 3/2), e log 2 plus the
/// series of the area tangent, 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = (m - 1) / (m + 1), |s| <= 1/5.
[[nodiscard]] DM2_HOST_DEVICE inline double log_of_part(double x) noexcept {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
  double m = 0;
  std::memcpy(&m, &bits, sizeof m);
  if (m >= 1.5) {
    m *= 0.5;
    ++exponent;
  }
  double const f = m - 1, s = f / (m + 1), square = s * s;
  double sum = 1.0 / 25;  // what is left out is below (1/5)^26 / 27
  for (int k = 23; k > 0; k -= 2) sum = std::fma(sum, square, 1.0 / k);
  return std::fma(static_cast<double>(exponent), 0.693147180559945309, (2 * s) * sum);
}

/// Cosine and sine of `part` of a full turn, for part in [0, 1): of the distance to the nearest quarter, at most an
/// eighth of a turn, by their power series.
[[nodiscard]] DM2_HOST_DEVICE inline normal_pair point_on_circle(double part) noexcept {
  int const quarter = static_cast<int>(std::fma(part, 4.0, 0.5));
  double const x = (part - 0.25 * quarter) * 6.28318530717958648, square = x * x;
  double cosine = 1, sine = 1;  // 1 - x^2 / 2 (1 - x^2 / 12 (...)): what is left out is below 2^-56
  for (int k = 18; k > 0; k -= 2) {
    cosine = std::fma(square * (-1.0 / ((k - 1) * k)), cosine, 1.0);
    sine = std::fma(square * (-1.0 / (k * (k + 1))), sine, 1.0);
  }
  sine *= x;
  switch (quarter & 3) {
    case 0:
      return {cosine, sine};
    case 1:
      return {-sine, cosine};
    case 2:
      return {-cosine, -sine};
    default:
      return {sine, -cosine};
  }
}

/// Box and Muller's: of `u` and `v`, uniform in [0, 1) and multiples of 2^-53.
[[nodiscard]] DM2_HOST_DEVICE inline normal_pair make_normal_pair(double u, double v) noexcept {
  double const radius = std::sqrt(-2 * log_of_part(1 - u));
  normal_pair const at = point_on_circle(v);
  return {radius * at.first, radius * at.second};
}

}  // namespace dm2::detail
