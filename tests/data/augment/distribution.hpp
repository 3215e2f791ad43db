/// @file
/// Random draws against their distributions. Bounds are five standard errors of a count or a mean, which a right
/// program leaves about once in two million comparisons; the tests' streams are fixed, so that none is flaky.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace dm2::test {

/// Whether `count` of n draws is within five standard deviations of a binomial count.
inline bool is_binomial(int count, int n, double p) {
  return std::abs(count - n * p) <= 5 * std::sqrt(n * p * (1 - p));
}

/// Whether the sample has the moments and the quarters of a uniform distribution on [low, high].
inline bool is_uniform(std::vector<double> const& v, double low, double high) {
  double const n = double(v.size());
  double sum = 0, square = 0;
  std::array<int, 4> quarter{};
  for (double const x : v) {
    double const u = (x - low) / (high - low);
    if (!(u >= 0 && u <= 1)) return false;
    sum += u;
    square += u * u;
    ++quarter[std::min<std::size_t>(3, std::size_t(4 * u))];
  }
  bool ok =
      std::abs(sum / n - 0.5) <= 5 / std::sqrt(12 * n) && std::abs(square / n - 1.0 / 3) <= 5 * std::sqrt(4 / (45 * n));
  for (int const q : quarter) ok = ok && is_binomial(q, int(v.size()), 0.25);
  return ok;
}

}  // namespace dm2::test
