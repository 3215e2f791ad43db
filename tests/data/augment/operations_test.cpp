/// @file
/// Properties of the augmentations that the golden picture does not reach.
#include <dm2/core/error.hpp>
#include <dm2/data/augment/apply.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "data/augment/marked.hpp"
#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr resize_filter filters[] = {resize_filter::bilinear, resize_filter::bicubic};

picture changed(picture p, augment_operation o, double argument, resize_filter f = resize_filter::bilinear) {
  apply(o, p, nullptr, argument, f);
  return p;
}

/// One row of grey pixels.
picture grey_row(std::vector<int> const& levels) {
  picture p{1, static_cast<int>(levels.size())};
  for (std::size_t i = 0; i < levels.size(); ++i)
    std::fill_n(p.pixels.begin() + 3 * std::ptrdiff_t(i), 3, static_cast<std::uint8_t>(levels[i]));
  return p;
}

}  // namespace

TEST_CASE("augment: an argument that means no change changes nothing") {
  using enum augment_operation;
  picture const p = gradient(37, 53);
  for (auto const o : {color, contrast, brightness, sharpness}) CHECK(changed(p, o, 1) == p);
  for (auto const f : filters)
    for (auto const o : {rotate, shear_x, shear_y, translate_x, translate_y}) CHECK(changed(p, o, 0, f) == p);
  CHECK(changed(p, posterize, 8) == p);
  CHECK(changed(p, solarize, 256) == p);
  CHECK(changed(p, solarize_add, 0) == p);
  CHECK(changed(changed(p, invert, 0), invert, 0) == p);
}

TEST_CASE("augment: an argument at its end erases, and never leaves a byte's range") {
  using enum augment_operation;
  picture const p = gradient(20, 30);
  CHECK(changed(p, posterize, 0) == picture{20, 30});
  CHECK(changed(p, brightness, 0) == picture{20, 30});
  CHECK(changed(p, solarize, 0) == changed(p, invert, 0));
  CHECK(changed(grey_row({0, 127, 128, 200}), solarize_add, 150) == grey_row({150, 255, 128, 200}));
  CHECK(changed(grey_row({0, 100, 200}), brightness, 1.9) == grey_row({0, 190, 255}));
  CHECK(changed(grey_row({0, 100, 200}), contrast, 0) == grey_row({100, 100, 100}));
  picture const grey = changed(p, color, 0);
  for (std::size_t i = 0; i < grey.pixels.size(); i += 3)
    REQUIRE_UNARY((grey.pixels[i] == grey.pixels[i + 1] && grey.pixels[i] == grey.pixels[i + 2]));
}

TEST_CASE("auto_contrast and equalize: one level stays; levels are stretched to both ends") {
  using enum augment_operation;
  picture const flat = grey_row(std::vector<int>(600, 77));
  CHECK(changed(flat, auto_contrast, 0) == flat);
  CHECK(changed(flat, equalize, 0) == flat);
  CHECK(changed(grey_row({50, 60, 70}), auto_contrast, 0) == grey_row({0, 127, 255}));
  // 710 pixels below the highest level: steps of 710 / 255 = 2, so that level 2 would be (1 + 710) / 2 = 355
  std::vector<int> levels(710, 1);
  levels.push_back(2);
  picture const p = changed(grey_row(levels), equalize, 0);
  CHECK(p.pixels.front() == 0);
  CHECK(p.pixels.back() == 255);
}

TEST_CASE("sharpness: the blur is the 3 x 3 average with weight 5 in the middle; borders stay") {
  picture p{3, 3};
  for (std::size_t i = 0; i < 27; ++i) p.pixels[i] = static_cast<std::uint8_t>(9 * i);
  picture want = p;
  for (std::size_t c = 0; c < 3; ++c) {
    int sum = 4 * p.pixels[12 + c];
    for (std::size_t i = c; i < 27; i += 3) sum += p.pixels[i];
    want.pixels[12 + c] = static_cast<std::uint8_t>(std::lround(sum / 13.0));
  }
  CHECK(changed(p, augment_operation::sharpness, 0) == want);
  for (auto const& [h, w] : {std::pair{2, 9}, {9, 2}, {1, 1}}) {
    picture const small = gradient(h, w);
    CHECK(changed(small, augment_operation::sharpness, 0.2) == small);
  }
}

TEST_CASE("warps: whole pixels are moved unchanged, and what comes in is the fill colour") {
  picture const p = gradient(12, 20);
  for (auto const f : filters) {
    picture const got = changed(p, augment_operation::translate_x, 0.25, f);  // 5 of 20 pixels to the left
    for (int y = 0; y < 12; ++y) {
      REQUIRE(std::equal(p.row(y) + 15, p.row(y) + 60, got.row(y)));
      for (int x = 15; x < 20; ++x)
        REQUIRE(std::equal(imagenet_colour.begin(), imagenet_colour.end(), got.row(y) + 3 * x));
    }
    picture turned =
        changed(changed(gradient(9, 9), augment_operation::rotate, 90, f), augment_operation::rotate, 270, f);
    CHECK(turned == gradient(9, 9));
  }
  picture corner{5, 5};  // counter-clockwise: what is on the right comes to the top
  corner.row(2)[12] = 200;
  CHECK(changed(corner, augment_operation::rotate, 90).row(0)[6] == 200);
  picture filled = p;
  apply(augment_operation::translate_y, filled, nullptr, 2, resize_filter::bilinear, {1, 2, 3});
  CHECK(filled.pixels[0] == 1);
  CHECK(filled.pixels.back() == 3);
}

TEST_CASE("flip: mirrors picture and map; twice is nothing") {
  for (int const width : {1, 2, 7, 8}) {
    picture const p = gradient(3, width);
    picture q = p;
    flip(q);
    for (int x = 0; x < width; ++x)
      CHECK(std::equal(q.row(1) + 3 * x, q.row(1) + 3 * x + 3, p.row(1) + 3 * (width - 1 - x)));
    flip(q);
    CHECK(q == p);
  }
  marked m = make_marked(3, 5);
  label_map_data const before = m.map;
  flip(m.map);
  CHECK(m.map.values[0] == before.values[17]);
  flip(m.map);
  CHECK(m.map.values == before.values);
}

TEST_CASE("warps: the label map stays with the picture") {
  using enum augment_operation;
  struct row {
    augment_operation operation;
    double argument;
  };
  for (row const& r : {row{rotate, 25},
                       {rotate, -18},
                       {shear_x, 0.25},
                       {shear_x, -0.25},
                       {shear_y, 0.25},
                       {shear_y, -0.2},
                       {translate_x, 0.2},
                       {translate_x, -0.2},
                       {translate_y, 0.2},
                       {translate_y, -0.15}}) {
    CAPTURE(name_of(r.operation));
    CAPTURE(r.argument);
    marked m = make_marked(10, 8);
    position const start = m.in_map();
    apply(r.operation, m.image, &m.map, r.argument, resize_filter::bilinear, {0, 0, 0});
    position const image = m.in_image(), map = m.in_map();
    CHECK(std::hypot(map.y - start.y, map.x - start.x) > 0.03);  // it has moved
    CHECK(std::abs(image.y - map.y) < 0.03);                     // by the same; a cell is 0.056
    CHECK(std::abs(image.x - map.x) < 0.03);
  }
}

TEST_CASE("augment: pictures without pixels, maps of a wrong size and senseless arguments are refused or harmless") {
  double const nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < augment_operation_count; ++i) {
    auto const o = static_cast<augment_operation>(i);
    picture none;
    CHECK_THROWS_AS(apply(o, none, nullptr, 1, resize_filter::bicubic), shape_error);
    for (double const argument : {nan, inf, -inf, 1e300}) {
      picture p = gradient(5, 6);
      if (o == augment_operation::rotate && !std::isfinite(argument))
        CHECK_THROWS_AS(apply(o, p, nullptr, argument, resize_filter::bicubic), shape_error);
      else
        apply(o, p, nullptr, argument, resize_filter::bicubic);
      CHECK(p.pixels.size() == 90);
    }
  }
  picture p = gradient(5, 6);
  label_map_data wrong{2, 2, std::vector<float>(39)}, empty;
  CHECK_THROWS_AS(apply(augment_operation::shear_x, p, &wrong, 1, resize_filter::bicubic), shape_error);
  CHECK_THROWS_AS(flip(wrong), shape_error);
  CHECK_THROWS_AS(warp(empty, {}), shape_error);
  CHECK(p == gradient(5, 6));
}
