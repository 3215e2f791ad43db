/// @file
/// Gradients held against central differences.
#pragma once

#include "support/golden.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <vector>

namespace dm2::test {

/// sum_i x_i w_i, with digits to spare: differences of it are divided by a small step.
inline long double dot(std::span<double const> x, std::span<double const> w) {
  REQUIRE(x.size() == w.size());
  long double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += static_cast<long double>(x[i]) * w[i];
  return sum;
}

/// All of n positions where n is at most `most`, else `most` of them, the same in every run.
inline std::vector<std::size_t> sample_positions(std::size_t n, std::size_t most) {
  std::vector<std::size_t> all(n);
  for (std::size_t i = 0; i < n; ++i) all[i] = i;
  std::vector<std::size_t> some;
  std::mt19937_64 engine{n};
  std::sample(all.begin(), all.end(), std::back_inserter(some), std::min(n, most), engine);
  return some;
}

/// |gradient - (loss(x + h) - loss(x - h)) / 2 h| / |...| over all elements of x, or a seeded sample of `most`, in the
/// Euclidean norm; h = step max(0.1, |x_i|). x is as before on return. NaN anywhere gives NaN.
///
/// The default step balances the two errors of a central difference in double: h^2 / 6 of the third derivative, and the
/// rounding of the loss over h; both are about 1e-10 for losses of order 10.
template <class F>
double gradient_error(std::vector<double>& x, std::span<double const> gradient, F const& loss, std::size_t most = 64,
                      double step = 2e-5) {
  REQUIRE(x.size() == gradient.size());
  std::vector<double> got, want;
  for (std::size_t const i : sample_positions(x.size(), most)) {
    double const before = x[i], h = step * std::max(0.1, std::abs(before));
    x[i] = before + h;
    double const above = x[i];
    long double const up = loss();
    x[i] = before - h;
    double const below = x[i];
    long double const down = loss();
    x[i] = before;
    got.push_back(gradient[i]);
    want.push_back(double((up - down) / (static_cast<long double>(above) - below)));
  }
  return relative_error(got, want);
}

/// What every gradient check asks for.
inline constexpr double gradient_tolerance = 1e-6;

}  // namespace dm2::test
