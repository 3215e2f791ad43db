/// @file
/// The training transform as a whole: order, determinism, alignment with the label map, and the erased noise.
#include <dm2/core/error.hpp>
#include <dm2/data/training_transform.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "data/augment/marked.hpp"
#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int height = 24, width = 32;

struct result {
  crop_fraction crop;
  label_map_data map;
  std::vector<float> out = std::vector<float>(3 * height * width, std::numeric_limits<float>::quiet_NaN());
};

result transform(marked const& m, augmentation const& a, random_stream random) {
  result r;
  r.map = m.map;
  r.crop = training_transform(m.image, &r.map, a, height, width, random, r.out);
  return r;
}

augmentation nothing_but_crop() {
  augmentation a;
  a.flip = a.erase = 0;
  a.operations = 0;
  return a;
}

}  // namespace

TEST_CASE("training_transform: is the recipe's steps in the recipe's order, from one stream") {
  augmentation a;
  a.operation_probability = 1;
  a.erase = 0.5;
  marked const m = make_marked(4, 9);
  int flips = 0, holes = 0;
  for (std::uint64_t i = 0; i < 60; ++i) {
    result const got = transform(m, a, {1, 0, i});
    random_stream random{1, 0, i};
    marked want = m;
    bool const flipped = random.chance(0.5);
    if (flipped) {
      flip(want.image);
      flip(want.map);
    }
    for (int k = 0; k < 2; ++k) {
      auto const o = draw_operation(a, random).value();
      apply(o.operation, want.image, &want.map, o.argument, o.filter);
    }
    pixel_box const box = draw_crop(a, want.image.height, want.image.width, random);
    std::vector<float> out(got.out.size());
    normalise(resized_crop(want.image, box, height, width, draw_filter(random)), out);
    auto const hole = draw_erasing(a, height, width, random);
    if (hole) erase_box(out, height, width, *hole, random);
    REQUIRE(got.out == out);
    REQUIRE(got.map.values == want.map.values);
    REQUIRE(got.crop.top * want.image.height == doctest::Approx(box.top));
    REQUIRE(got.crop.left * want.image.width == doctest::Approx(box.left));
    REQUIRE(got.crop.height * want.image.height == doctest::Approx(box.height));
    REQUIRE(got.crop.width * want.image.width == doctest::Approx(box.width));
    flips += int(flipped);
    holes += int(hole.has_value());
  }
  CHECK_UNARY((flips > 15 && flips < 45));
  CHECK_UNARY((holes > 15 && holes < 45));
}

TEST_CASE("training_transform: depends on the stream only, and does not need a map") {
  marked const m = make_marked(6, 6);
  augmentation const a;
  result const once = transform(m, a, {1, 2, 3}), again = transform(m, a, {1, 2, 3});
  CHECK(once.out == again.out);
  CHECK(once.map.values == again.map.values);
  for (random_stream const other : {random_stream{2, 2, 3}, {1, 3, 3}, {1, 2, 4}})
    CHECK(transform(m, a, other).out != once.out);
  result bare;
  random_stream random{1, 2, 3};
  (void)training_transform(m.image, nullptr, a, height, width, random, bare.out);
  CHECK(bare.out == once.out);
}

TEST_CASE("training_transform: half of the pictures are flipped, bicubic as often as bilinear") {
  augmentation a = nothing_but_crop();
  a.flip = 0.5;
  a.area_min = a.area_max = a.ratio_min = a.ratio_max = 1;  // the whole of a square
  marked const m = make_marked(5, 2);
  picture const bilinear = resize(m.image, height, width, resize_filter::bilinear);
  std::vector<float> expected(3 * height * width);
  normalise(bilinear, expected);
  int const n = 2000;
  int flipped = 0, same = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    result const r = transform(m, a, {7, 0, i});
    bool const mirrored = r.map.values != m.map.values;
    flipped += int(mirrored);
    same += int(!mirrored && r.out == expected);
  }
  double const sigma = std::sqrt(n * 0.25);
  CHECK(std::abs(flipped - n / 2) < 5 * sigma);
  CHECK(std::abs(same - (n - flipped) / 2.0) < 5 * std::sqrt((n - flipped) * 0.25));
}

TEST_CASE("training_transform: the crop says where in the map the result is") {
  augmentation a = nothing_but_crop();
  a.flip = 0.5;
  a.area_min = 0.3;
  marked const m = make_marked(7, 4);
  int whole = 0;
  for (std::uint64_t i = 0; i < 300; ++i) {
    result const r = transform(m, a, {3, 0, i});
    marked const after{{}, r.map};
    position const map = after.in_map();
    double const half = 2.0 / 18;  // of the mark
    if (map.y - half < r.crop.top || map.y + half > r.crop.top + r.crop.height || map.x - half < r.crop.left ||
        map.x + half > r.crop.left + r.crop.width)
      continue;  // the mark is cut
    ++whole;
    float const black = -0.485f / 0.229f;
    position const seen =
        centre_of(height, width, [&](int y, int x) { return double(r.out[std::size_t(y * width + x)] - black); });
    CHECK(std::abs(r.crop.top + seen.y * r.crop.height - map.y) < 0.01);
    CHECK(std::abs(r.crop.left + seen.x * r.crop.width - map.x) < 0.01);
  }
  CHECK(whole > 50);
}

TEST_CASE("erase_box: standard normal noise in the box, one number a value, and nothing elsewhere") {
  std::vector<float> out(3 * 100 * 120, 9.0f);
  random_stream random{11, 0, 0};
  erase_box(out, 100, 120, {10, 20, 80, 90}, random);
  double sum = 0, square = 0, fourth = 0, across = 0;
  int n = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::size_t const y = i / 120 % 100, x = i % 120;
    if (y < 10 || y >= 90 || x < 20 || x >= 110) {
      REQUIRE(out[i] == 9.0f);
      continue;
    }
    double const v = double(out[i]);
    ++n;
    sum += v;
    square += v * v;
    fourth += v * v * v * v;
    if (i + 12000 < out.size()) across += v * double(out[i + 12000]);  // the next channel's
  }
  CHECK(n == 3 * 80 * 90);
  CHECK(std::abs(sum / n) < 5 / std::sqrt(double(n)));
  CHECK(std::abs(square / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(fourth / n - 3) < 5 * std::sqrt(96.0 / n));
  CHECK(std::abs(across / (2 * 80 * 90)) < 5 / std::sqrt(2.0 * 80 * 90));
}

TEST_CASE("training_transform: one pixel is enough; wrong sizes throw and write nothing") {
  marked const m = make_marked(1, 1);
  augmentation a;
  for (std::uint64_t i = 0; i < 200; ++i) {
    result r;
    random_stream random{5, 0, i};
    picture const tiny = gradient(1 + int(i % 3), 1 + int(i % 5));
    (void)training_transform(tiny, nullptr, a, height, width, random, r.out);
    REQUIRE(std::all_of(r.out.begin(), r.out.end(), [](float v) { return std::isfinite(v); }));
  }
  std::vector<float> out(3 * height * width, -9.0f);
  random_stream random{1, 1, 1};
  label_map_data wrong{3, 3, std::vector<float>(89)};
  std::span<float> const all{out};
  CHECK_THROWS_AS(training_transform(picture{}, nullptr, a, height, width, random, all), shape_error);
  CHECK_THROWS_AS(training_transform(m.image, &wrong, a, height, width, random, all), shape_error);
  CHECK_THROWS_AS(training_transform(m.image, nullptr, a, height, width, random, all.first(5)), shape_error);
  CHECK_THROWS_AS(training_transform(m.image, nullptr, a, 0, width, random, all), shape_error);
  CHECK_THROWS_AS(erase_box(all, height, width, {20, 0, 5, 5}, random), shape_error);
  CHECK_THROWS_AS(erase_box(all, height, width, {0, -1, 5, 5}, random), shape_error);
  CHECK_THROWS_AS(erase_box(all.first(7), height, width, {0, 0, 5, 5}, random), shape_error);
  a.flip = 3;
  CHECK_THROWS_AS(training_transform(m.image, nullptr, a, height, width, random, all), std::invalid_argument);
  CHECK(out == std::vector<float>(out.size(), -9.0f));
}
