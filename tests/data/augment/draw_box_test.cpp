/// @file
/// The random crop and the erased rectangle against their definitions.
#include <dm2/data/augment/draw_box.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <vector>

#include "data/augment/distribution.hpp"

using namespace dm2;
using namespace dm2::test;

TEST_CASE("draw_crop: of a square that is large, area is uniform, ratio log-uniform, and the place even") {
  // area at most 0.5 and ratio at most 4/3 always fit, so that nothing is drawn again; the grid is 1/4000
  augmentation a;
  a.area_max = 0.5;
  int const side = 4000, n = 40000;
  std::vector<double> area, ratio, top, left;
  random_stream random{4, 0, 0};
  for (int i = 0; i < n; ++i) {
    pixel_box const b = draw_crop(a, side, side, random);
    area.push_back(double(b.height) * b.width / (double(side) * side));
    ratio.push_back(std::log(double(b.width) / b.height));
    top.push_back(double(b.top) / (side - b.height));
    left.push_back(double(b.left) / (side - b.width));
  }
  // rounding moves a side by 1/2 of at least 980 pixels: widen both ends by a part in a thousand
  CHECK(is_uniform(area, 0.08 - 1e-3 * 0.08, 0.5 + 1e-3 * 0.5));
  CHECK(is_uniform(ratio, std::log(0.75) - 1e-3, std::log(4.0 / 3) + 1e-3));
  CHECK(is_uniform(top, 0, 1));
  CHECK(is_uniform(left, 0, 1));
}

TEST_CASE("draw_crop: every offset of a small picture is drawn, the last one too") {
  augmentation a;
  a.area_min = a.area_max = 1.0 / 3;  // 4 x 1 of 4 x 3
  a.ratio_min = a.ratio_max = 0.25;
  std::map<int, int> lefts;
  random_stream random{5, 0, 0};
  for (int i = 0; i < 9000; ++i) {
    pixel_box const b = draw_crop(a, 4, 3, random);
    REQUIRE_UNARY((b.height == 4 && b.width == 1 && b.top == 0));
    ++lefts[b.left];
  }
  CHECK(lefts.size() == 3);
  for (auto const& [left, count] : lefts) CHECK(is_binomial(count, 9000, 1.0 / 3));
}

TEST_CASE("draw_crop: what cannot fit in ten tries is the centre, at the nearest ratio in bounds") {
  augmentation a;
  random_stream random{6, 0, 0};
  a.area_min = a.area_max = 1;  // the whole area at ratio 3/4..4/3 never fits a picture of ratio 1/8 or 8
  pixel_box const tall = draw_crop(a, 800, 100, random), wide = draw_crop(a, 100, 800, random);
  CHECK_UNARY((tall.top == 333 && tall.left == 0 && tall.height == 133 && tall.width == 100));
  CHECK_UNARY((wide.top == 0 && wide.left == 333 && wide.height == 100 && wide.width == 133));
  pixel_box const within = fallback_crop(a, 90, 100);
  CHECK_UNARY((within.top == 0 && within.left == 0 && within.height == 90 && within.width == 100));
  pixel_box const least = fallback_crop(a, 1, 1000);
  CHECK_UNARY((least.height == 1 && least.width == 1 && least.left == 499));

  // How often the fallback happens: a try at 224 x 448 fits with a probability that a fine grid over area and
  // log-ratio gives, and all ten fail with the tenth power of the rest.
  augmentation b;
  b.area_min = 0.6;
  int const grid = 2000;
  int fits = 0;
  for (int i = 0; i < grid; ++i)
    for (int j = 0; j < grid; ++j) {
      double const area = 224.0 * 448 * (0.6 + 0.4 * (i + 0.5) / grid);
      double const ratio = std::exp(std::log(0.75) + std::log(16.0 / 9) * (j + 0.5) / grid);
      fits += int(std::sqrt(area / ratio) <= 224.5 && std::sqrt(area * ratio) <= 448.5);
    }
  double const miss = std::pow(1 - double(fits) / grid / grid, 10);
  int const n = 20000;
  int fallbacks = 0;
  for (int i = 0; i < n; ++i) {
    pixel_box const box = draw_crop(b, 224, 448, random);
    fallbacks += int(box.height == 224 && box.width == 299 && box.left == 74);
  }
  CAPTURE(miss);
  CHECK(miss > 0.01);
  CHECK(is_binomial(fallbacks, n, miss));
}

TEST_CASE("draw_erasing: a quarter of the pictures; area uniform, ratio log-uniform, never a whole side") {
  augmentation a;
  int const n = 40000;
  int erased = 0;
  random_stream random{7, 0, 0};
  for (int i = 0; i < n; ++i)
    if (auto const b = draw_erasing(a, 224, 224, random)) {
      ++erased;
      REQUIRE_UNARY((b->height >= 1 && b->height < 224 && b->width >= 1 && b->width < 224));
      REQUIRE_UNARY((b->top >= 0 && b->top + b->height <= 224 && b->left >= 0 && b->left + b->width <= 224));
    }
  CHECK(is_binomial(erased, n, 0.25));  // a rectangle fits in ten tries but for less than one in 10^9

  a.erase = 1;
  a.erase_area_max = 0.25;  // at most 0.25 * 3.3 = 0.91^2: always fits
  std::vector<double> area, ratio, top, left;
  for (int i = 0; i < n; ++i) {
    auto const b = draw_erasing(a, 4000, 4000, random);
    REQUIRE(b.has_value());
    area.push_back(double(b->height) * b->width / 16e6);
    ratio.push_back(std::log(double(b->height) / b->width));
    top.push_back(double(b->top) / (4000 - b->height));
    left.push_back(double(b->left) / (4000 - b->width));
  }
  // rounding moves a side by 1/2 of at least 310 pixels
  CHECK(is_uniform(area, 0.02 - 4e-3 * 0.02, 0.25 + 4e-3 * 0.25));
  CHECK(is_uniform(ratio, std::log(0.3) - 4e-3, std::log(3.3) + 4e-3));
  CHECK(is_uniform(top, 0, 1));
  CHECK(is_uniform(left, 0, 1));
  a.erase = 0;
  CHECK_FALSE(draw_erasing(a, 224, 224, random).has_value());
  a.erase = 1;
  CHECK_FALSE(draw_erasing(a, 1, 224, random).has_value());  // no side of 1 is shorter than 1
}
