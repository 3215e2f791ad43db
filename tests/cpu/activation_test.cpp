#include <dm2/cpu/activation.hpp>

#include <doctest/doctest.h>

#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <cmath>
#include <limits>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("activation: silu is x sigmoid(x), in place too, and finite at any size") {
  auto x = random_source{71}.normal(33, 5);
  x[0] = 0, x[1] = 800, x[2] = -800;
  auto y = poisoned(x.size());
  cpu::silu(x.data(), y.data(), 33);
  for (std::size_t i = 0; i < 33; ++i) CHECK(std::abs(y[i] - x[i] / (1 + std::exp(-x[i]))) <= 1e-14 * std::abs(x[i]));
  cpu::silu(x.data(), x.data(), 33);
  CHECK(x == y);
}

TEST_CASE("activation: the derivative of silu matches central differences, and may replace the gradient in place") {
  random_source random{73};
  auto x = random.normal(33, 3);
  auto const dy = random.normal(33);
  auto dx = poisoned(33), y = dx;
  cpu::silu_backward(x.data(), dy.data(), dx.data(), 33);
  CHECK(gradient_error(x, dx, [&] {
          cpu::silu(x.data(), y.data(), 33);
          return dot(y, dy);
        }) < gradient_tolerance);
  auto in_place = dy;
  cpu::silu_backward(x.data(), in_place.data(), in_place.data(), 33);
  CHECK(in_place == dx);
}

TEST_CASE("activation: the derivative of silu is 1 and 0 far from zero") {
  double const x[]{800, -800}, dy[]{2, 2};
  double dx[2];
  cpu::silu_backward(x, dy, dx, 2);
  CHECK(dx[0] == 2);
  CHECK(dx[1] == 0);
}

TEST_CASE_TEMPLATE("activation: softplus is log(1 + exp(x)), small and large", T, double, float) {
  double const tolerance = 4 * double(std::numeric_limits<T>::epsilon());
  for (double const x : {-50.0, -20.0, -1.0, 0.0, 0.5, 19.0}) {
    CAPTURE(x);
    double const want = std::log1p(std::exp(double(T(x)))), slope = 1 / (1 + std::exp(-x));
    CHECK(std::abs(double(cpu::softplus(T(x))) - want) <= tolerance * want);
    CHECK(std::abs(double(cpu::softplus_slope(T(x))) - slope) <= tolerance * slope);
  }
  for (double const x : {20.5, 100.0, 1000.0}) {
    CHECK(cpu::softplus(T(x)) == T(x));
    CHECK(cpu::softplus_slope(T(x)) == T(1));
  }
}
