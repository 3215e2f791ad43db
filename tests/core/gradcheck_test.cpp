#include <doctest/doctest.h>

#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace dm2::test;

namespace {

/// sum of x^3 / 3, whose gradient is x^2.
long double cubes(std::vector<double> const& x) {
  long double sum = 0;
  for (double v : x) sum += static_cast<long double>(v) * v * v / 3;
  return sum;
}

}  // namespace

TEST_CASE("gradcheck: a right gradient passes, and one wrong element, sign or factor does not") {
  auto x = random_source{5}.normal(200);
  auto const before = x;
  std::vector<double> gradient;
  for (double v : x) gradient.push_back(v * v);
  auto const error = [&] { return gradient_error(x, gradient, [&] { return cubes(x); }); };
  CHECK(error() < 1e-9);
  CHECK(x == before);
  for (double& v : gradient) v *= 1 + 1e-5;
  CHECK_FALSE(error() < gradient_tolerance);
  for (double& v : gradient) v = -v;
  CHECK_FALSE(error() < gradient_tolerance);
}

TEST_CASE("gradcheck: NaN in the gradient or in the loss is no agreement") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> x{1, 2}, right{1, 4}, wrong{1, nan};
  CHECK(gradient_error(x, right, [&] { return cubes(x); }) < 1e-9);
  CHECK_FALSE(gradient_error(x, wrong, [&] { return cubes(x); }) < gradient_tolerance);
  CHECK_FALSE(gradient_error(x, right, [&] { return static_cast<long double>(nan); }) < gradient_tolerance);
}

TEST_CASE("gradcheck: a sample has no position twice, and is the same in every run") {
  auto const some = sample_positions(1000, 64);
  CHECK(some.size() == 64);
  for (std::size_t i = 1; i < some.size(); ++i) CHECK(some[i - 1] < some[i]);
  CHECK(some == sample_positions(1000, 64));
  CHECK(sample_positions(5, 64).size() == 5);
}

TEST_CASE("compare: relative error is that of the norms, and NaN is no agreement") {
  std::vector<double> const want{3, 4};
  CHECK(relative_error(std::vector<double>{3, 4}, want) == 0);
  CHECK(relative_error(std::vector<double>{3, 4.5}, want) == doctest::Approx(0.1));
  CHECK(relative_error(std::vector<double>{0, 2}, std::vector<double>{0, 0}) == 2);
  CHECK(std::isnan(relative_error(poisoned(2), want)));
}
