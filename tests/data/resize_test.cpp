/// @file
/// Resizing: identities, and a naive oracle in double at many sizes. The golden crops are in decode_test.cpp.
#include <dm2/core/error.hpp>
#include <dm2/data/resize.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

picture noise(int height, int width, unsigned seed) {
  std::mt19937 random{seed};
  picture p{height, width};
  for (auto& b : p.pixels) b = static_cast<std::uint8_t>(random());
  return p;
}

double kernel(resize_filter filter, double x) {
  x = std::abs(x);
  if (filter == resize_filter::bilinear) return std::max(0.0, 1 - x);
  if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

/// One axis in double: every source sample whose centre lies under the stretched filter, weights normalised.
std::vector<double> naive_axis(std::vector<double> const& in, std::size_t out, resize_filter filter) {
  double const scale = static_cast<double>(in.size()) / static_cast<double>(out), stretch = std::max(1.0, scale);
  std::vector<double> result(out);
  for (std::size_t i = 0; i < out; ++i) {
    double const centre = (static_cast<double>(i) + 0.5) * scale;
    double sum = 0, weights = 0;
    for (std::size_t x = 0; x < in.size(); ++x) {
      double const w = kernel(filter, (static_cast<double>(x) + 0.5 - centre) / stretch);
      sum += w * in[x];
      weights += w;
    }
    result[i] = std::clamp(std::floor(sum / weights + 0.5), 0.0, 255.0);
  }
  return result;
}

picture naive(picture const& p, int height, int width, resize_filter filter) {
  picture out{height, width};
  for (int c = 0; c < 3; ++c) {
    std::vector<std::vector<double>> rows;
    for (int y = 0; y < p.height; ++y) {
      std::vector<double> row;
      for (int x = 0; x < p.width; ++x) row.push_back(p.row(y)[3 * x + c]);
      rows.push_back(naive_axis(row, static_cast<std::size_t>(width), filter));
    }
    for (int x = 0; x < width; ++x) {
      std::vector<double> column;
      for (auto const& row : rows) column.push_back(row[static_cast<std::size_t>(x)]);
      auto const done = naive_axis(column, static_cast<std::size_t>(height), filter);
      for (int y = 0; y < height; ++y)
        out.row(y)[3 * x + c] = static_cast<std::uint8_t>(done[static_cast<std::size_t>(y)]);
    }
  }
  return out;
}

constexpr resize_filter both[] = {resize_filter::bilinear, resize_filter::bicubic};

}  // namespace

TEST_CASE("resize: agrees with a naive oracle in double at sizes up, down, odd and one") {
  struct sizes {
    int h, w, oh, ow;
  };
  for (sizes const& s : {sizes{1, 1, 5, 7},
                         {2, 3, 9, 2},
                         {37, 53, 16, 16},
                         {16, 16, 37, 53},
                         {50, 40, 1, 1},
                         {1, 90, 8, 8},
                         {90, 1, 7, 3},
                         {64, 64, 63, 65},
                         {33, 200, 33, 20},
                         {200, 33, 20, 33},
                         {97, 31, 13, 224}})
    for (resize_filter const filter : both) {
      CAPTURE(s.h);
      CAPTURE(s.w);
      CAPTURE(s.oh);
      CAPTURE(s.ow);
      picture const p = noise(s.h, s.w, static_cast<unsigned>(s.h * s.w));
      distance const d = difference(resize(p, s.oh, s.ow, filter), naive(p, s.oh, s.ow, filter));
      // fixed point moves a sum by taps / 2^23 of a level, so a byte changes only where a sum lies on a half:
      // often at small ratios
      CHECK(d.largest <= 1);
      CHECK(d.mean <= 0.04);
    }
}

TEST_CASE("resize: a constant picture stays constant") {
  for (int const level : {0, 1, 127, 254, 255}) {
    picture p{19, 23};
    std::ranges::fill(p.pixels, static_cast<std::uint8_t>(level));
    for (resize_filter const filter : both)
      for (auto const& [h, w] : {std::pair{1, 1}, {7, 50}, {224, 224}, {18, 24}}) {
        picture const got = resize(p, h, w, filter);
        CHECK(std::ranges::all_of(got.pixels, [&](int v) { return v == level; }));
        CHECK(got.pixels.size() == static_cast<std::size_t>(h * w * 3));
      }
  }
}

TEST_CASE("resize: one pixel fills any size") {
  picture p{1, 1};
  p.pixels = {10, 200, 77};
  for (resize_filter const filter : both) {
    picture const got = resize(p, 31, 5, filter);
    for (std::size_t i = 0; i < got.pixels.size(); ++i) REQUIRE(got.pixels[i] == p.pixels[i % 3]);
  }
}

TEST_CASE("resize: the same size is a copy, and one unchanged side leaves that side alone") {
  picture const p = noise(41, 29, 3);
  for (resize_filter const filter : both) {
    CHECK(resize(p, 41, 29, filter) == p);
    picture const narrow = resize(p, 41, 10, filter);
    for (int y = 0; y < 41; ++y) {
      picture row{1, 29};
      std::copy_n(p.row(y), p.stride(), row.row(0));
      REQUIRE(std::equal(narrow.row(y), narrow.row(y) + 30, resize(row, 1, 10, filter).row(0)));
    }
  }
}

TEST_CASE("resize: mirrored input gives mirrored output") {
  auto const mirrored = [](picture const& p) {
    picture m = p;
    for (int y = 0; y < p.height; ++y)
      for (int x = 0; x < p.width; ++x) std::copy_n(p.row(y) + 3 * x, 3, m.row(y) + 3 * (p.width - 1 - x));
    return m;
  };
  picture const p = noise(30, 64, 9);
  for (resize_filter const filter : both)
    CHECK(difference(resize(mirrored(p), 11, 16, filter), mirrored(resize(p, 11, 16, filter))).largest <= 1);
}

TEST_CASE("resized_crop: equals cropping first, wherever the box lies") {
  picture const p = noise(40, 50, 4);
  for (pixel_box const b : {pixel_box{0, 0, 40, 50}, {39, 49, 1, 1}, {5, 6, 30, 17}, {0, 49, 40, 1}, {39, 0, 1, 50}})
    for (resize_filter const filter : both) {
      picture cropped{b.height, b.width};
      for (int y = 0; y < b.height; ++y) std::copy_n(p.row(b.top + y) + 3 * b.left, cropped.stride(), cropped.row(y));
      CHECK(resized_crop(p, b, 24, 32, filter) == resize(cropped, 24, 32, filter));
      CHECK(resized_crop(p, b, b.height, b.width, filter) == cropped);
    }
}

TEST_CASE("resized_crop: boxes outside the picture and empty results are refused") {
  picture const p = noise(10, 12, 5);
  for (pixel_box const b : {pixel_box{-1, 0, 5, 5},
                            {0, -1, 5, 5},
                            {0, 0, 11, 5},
                            {0, 0, 5, 13},
                            {9, 0, 2, 5},
                            {0, 0, 0, 5},
                            {0, 0, 5, -3},
                            {2147483647, 0, 2147483647, 1}})
    CHECK_THROWS_AS((void)resized_crop(p, b, 8, 8, resize_filter::bilinear), shape_error);
  CHECK_THROWS_AS((void)resize(p, 0, 8, resize_filter::bilinear), shape_error);
  CHECK_THROWS_AS((void)resize(picture{}, 8, 8, resize_filter::bilinear), shape_error);
  picture broken = p;
  broken.pixels.assign(p.pixels.size() - 1, std::uint8_t{0});
  CHECK_THROWS_AS((void)resize(broken, 8, 8, resize_filter::bilinear), shape_error);
}
