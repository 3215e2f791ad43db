/// @file
/// Gradients held against central differences.
#pragma once

#include "support/compare.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
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

/// Relative error, in the Euclidean norm, of gradient against central differences of loss() over all elements of x, or
/// a seeded sample of `most`: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h with h = step max(0.1, |x_i|). x is as
/// before on return. NaN anywhere gives NaN.
///
/// The default step is small enough for a norm over numbers of 3e-3, where its eps bends it most, and large enough that
/// the rounding of the loss over h stays at 1e-9. A function with kinks wants a smaller one, so that it crosses none.
template <class F>
double gradient_error(std::vector<double>& x, std::span<double const> gradient, F const& loss, std::size_t most = 64,
                      double step = 5e-5) {
  REQUIRE(x.size() == gradient.size());
  std::vector<double> got, want;
  for (std::size_t const i : sample_positions(x.size(), most)) {
    double const before = x[i];
    // a power of two near it, so that x + h is exact to a few digits less than x has
    double const h = std::exp2(std::round(std::log2(step * std::max(0.1, std::abs(before)))));
    auto const difference = [&](double width) {
      x[i] = before + width;
      long double const up = loss();
      x[i] = before - width;
      long double const down = loss();
      x[i] = before;
      return (up - down) / (2 * static_cast<long double>(width));
    };
    got.push_back(gradient[i]);
    want.push_back(double((4 * difference(h) - difference(2 * h)) / 3));
  }
  return relative_error(got, want);
}

/// What every gradient check asks for.
inline constexpr double gradient_tolerance = 1e-6;

}  // namespace dm2::test
