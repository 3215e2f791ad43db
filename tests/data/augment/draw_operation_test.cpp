/// @file
/// RandAugment's random draws against their definitions.
#include <dm2/data/augment/draw_operation.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include "data/augment/distribution.hpp"

using namespace dm2;
using namespace dm2::test;

TEST_CASE("draw_operation: operations, signs and filters are even, half are applied") {
  augmentation const a;
  int const n = 60000;
  std::array<int, augment_operation_count> count{};
  int applied = 0, signs = 0, negative = 0, bicubic = 0;
  random_stream random{1, 0, 0};
  for (int i = 0; i < n; ++i) {
    auto const o = draw_operation(a, random);
    if (!o) continue;
    ++applied;
    ++count[std::size_t(o->operation)];
    bicubic += int(o->filter == resize_filter::bicubic);
    bool const enhances = o->operation >= augment_operation::color && o->operation <= augment_operation::sharpness;
    if (is_geometric(o->operation) || enhances) {
      ++signs;
      negative += int(o->argument < (enhances ? 1 : 0));
    }
  }
  CHECK(is_binomial(applied, n, 0.5));
  for (int const c : count) CHECK(is_binomial(c, applied, 1.0 / 15));
  CHECK(is_binomial(signs, applied, 9.0 / 15));
  CHECK(is_binomial(negative, signs, 0.5));
  CHECK(is_binomial(bicubic, applied, 0.5));
}

TEST_CASE("draw_operation: any probability, and the number of applied operations is binomial") {
  augmentation a;
  a.operations = 3;
  a.operation_probability = 0.3;
  int const n = 30000;
  std::array<int, 4> count{};
  random_stream random{2, 0, 0};
  for (int i = 0; i < n; ++i) {
    std::size_t applied = 0;
    for (int k = 0; k < a.operations; ++k) applied += std::size_t(draw_operation(a, random).has_value());
    ++count[applied];
  }
  std::array<double, 4> const expected{0.343, 0.441, 0.189, 0.027};
  for (std::size_t k = 0; k < 4; ++k) CHECK(is_binomial(count[k], n, expected[k]));
  a.operation_probability = 0;
  CHECK_FALSE(draw_operation(a, random).has_value());
}

TEST_CASE("draw_magnitude: normal about 9, clamped to 0..10; uniform where the deviation is infinite") {
  augmentation a;
  int const n = 50000;
  int below_mean = 0, below_one_sigma = 0, at_top = 0;
  random_stream random{3, 0, 0};
  for (int i = 0; i < n; ++i) {
    double const m = draw_magnitude(a, random);
    REQUIRE_UNARY((m >= 0 && m <= 10));
    below_mean += int(m < 9);
    below_one_sigma += int(m < 8.5);
    at_top += int(m == 10);
  }
  auto const normal_cdf = [](double z) { return std::erfc(-z / std::numbers::sqrt2) / 2; };
  CHECK(is_binomial(below_mean, n, 0.5));
  CHECK(is_binomial(below_one_sigma, n, normal_cdf(-1)));
  CHECK(is_binomial(at_top, n, normal_cdf(-2)));

  a.magnitude = 0.5;
  a.magnitude_std = 1;
  int at_bottom = 0;
  for (int i = 0; i < n; ++i) at_bottom += int(draw_magnitude(a, random) == 0);
  CHECK(is_binomial(at_bottom, n, normal_cdf(-0.5)));

  a.magnitude = 8;
  a.magnitude_std = std::numeric_limits<double>::infinity();
  std::vector<double> values;
  for (int i = 0; i < n; ++i) values.push_back(draw_magnitude(a, random));
  CHECK(is_uniform(values, 0, 8));
  a.magnitude_std = 0;
  CHECK(draw_magnitude(a, random) == 8);
}

TEST_CASE("operation_argument: the recipe's scales, at both ends and between") {
  using enum augment_operation;
  struct row {
    augment_operation operation;
    double at_0, at_9, at_10;
  };
  for (row const& r : {row{rotate, 0, 27, 30},
                       {shear_x, 0, 0.27, 0.3},
                       {shear_y, 0, 0.27, 0.3},
                       {translate_x, 0, 0.405, 0.45},
                       {translate_y, 0, 0.405, 0.45},
                       {posterize, 4, 1, 0},
                       {solarize, 256, 26, 0},
                       {solarize_add, 0, 99, 110},
                       {color, 1, 1.81, 1.9},
                       {contrast, 1, 1.81, 1.9},
                       {brightness, 1, 1.81, 1.9},
                       {sharpness, 1, 1.81, 1.9},
                       {auto_contrast, 0, 0, 0},
                       {equalize, 0, 0, 0},
                       {invert, 0, 0, 0}}) {
    CAPTURE(name_of(r.operation));
    auto const at = [&](double m, bool negative = false) { return operation_argument(r.operation, m, negative); };
    CHECK(at(0) == doctest::Approx(r.at_0).epsilon(1e-12));
    CHECK(at(9) == doctest::Approx(r.at_9).epsilon(1e-12));
    CHECK(at(10) == doctest::Approx(r.at_10).epsilon(1e-12));
    bool const blends = r.operation >= color && r.operation <= sharpness;
    double const opposite = is_geometric(r.operation) ? -r.at_9 : blends ? 2 - r.at_9 : r.at_9;
    CHECK(at(9, true) == doctest::Approx(opposite).epsilon(1e-12));
  }
  CHECK(operation_argument(posterize, 7.4, false) == 2);  // int(2.96) = 2
  CHECK(operation_argument(color, 10.5, true) == 0.1);
}
