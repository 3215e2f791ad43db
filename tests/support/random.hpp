/// @file
/// Seeded numbers for tests, and buffers that show what was not written.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

namespace dm2::test {

/// The same numbers in every run.
class random_source {
 public:
  explicit random_source(unsigned seed = 1) : engine_{seed} {}

  template <class T = double>
  std::vector<T> normal(std::size_t n, double scale = 1, double mean = 0) {
    std::normal_distribution<double> draw{mean, scale};
    std::vector<T> x(n);
    for (T& v : x) v = T(draw(engine_));
    return x;
  }
  template <class T = double>
  std::vector<T> uniform(std::size_t n, double low, double high) {
    std::uniform_real_distribution<double> draw{low, high};
    std::vector<T> x(n);
    for (T& v : x) v = T(draw(engine_));
    return x;
  }

 private:
  std::mt19937_64 engine_;
};

/// n NaNs: an output that an operation must overwrite whole, and must not read.
template <class T = double>
std::vector<T> poisoned(std::size_t n) {
  return std::vector<T>(n, std::numeric_limits<T>::quiet_NaN());
}

/// True if no element was written since poisoned().
template <class T>
bool untouched(std::vector<T> const& x) {
  for (T v : x)
    if (!std::isnan(v)) return false;
  return true;
}

}  // namespace dm2::test
