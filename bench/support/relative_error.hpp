/// @file
/// Comparison by norm.
#pragma once

#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>

namespace dm2::bench {

/// |got - want| / |want| in the Euclidean norm, in double; NaN for different sizes, or where either holds a NaN. Two
/// zero vectors give 0.
template <class A, class B>
double relative_error(A const& got, B const& want) {
  if (std::size(got) != std::size(want)) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::size(want); ++i) {
    double const w = double(want[i]), d = double(got[i]) - w;
    difference += d * d;
    norm += w * w;
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace dm2::bench
