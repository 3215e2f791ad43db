/// @file
/// Comparison of tensors by norm.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <iterator>

namespace dm2::test {

/// |got - want| / |want| in the Euclidean norm, in double. NaN anywhere gives NaN, which no comparison accepts; where
/// want is zero, |got|.
template <class A, class B>
double relative_error(A const& got, B const& want) {
  REQUIRE(std::size(got) == std::size(want));
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::size(want); ++i) {
    double const w = double(want[i]), d = double(got[i]) - w;
    difference += d * d;
    norm += w * w;
  }
  if (norm == 0) return std::sqrt(difference);
  return std::sqrt(difference / norm);
}

}  // namespace dm2::test
