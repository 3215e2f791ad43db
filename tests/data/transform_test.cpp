/// @file
/// The evaluation transform's geometry, and normalisation. The golden results are in decode_test.cpp.
#include <dm2/core/error.hpp>
#include <dm2/data/transform.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

picture crop(picture const& p, int top, int left, int height, int width) {
  picture out{height, width};
  for (int y = 0; y < height; ++y) std::copy_n(p.row(top + y) + 3 * left, out.stride(), out.row(y));
  return out;
}

}  // namespace

TEST_CASE("evaluation_transform: equals resizing whole and cropping, with offsets rounded half to even") {
  struct row {
    int height, width;              // of the picture, resized to shorter side 32, cropped to 28 or 27
    int whole_height, whole_width;  // after resizing
    int size, top, left;
  };
  for (row const& r : {row{64, 80, 32, 40, 28, 2, 6},
                       {80, 64, 40, 32, 27, 6, 2},   // 13/2 = 6.5 -> 6, 5/2 = 2.5 -> 2
                       {32, 34, 32, 34, 27, 2, 4},   // 7/2 = 3.5 -> 4
                       {50, 77, 32, 49, 28, 2, 10},  // 21/2 = 10.5 -> 10
                       {10, 10, 32, 32, 28, 2, 2},
                       {3, 200, 32, 2133, 27, 2, 1053}}) {
    CAPTURE(r.height);
    CAPTURE(r.width);
    picture const p = gradient(r.height, r.width);
    picture const whole = resize(p, r.whole_height, r.whole_width, resize_filter::bilinear);
    CHECK(evaluation_transform(p, r.size, 32) == crop(whole, r.top, r.left, r.size, r.size));
  }
}

TEST_CASE("evaluation_transform: a crop larger than the picture is padded with black, the odd pixel behind") {
  picture const p = gradient(8, 8);
  picture const got = evaluation_transform(p, 11, 8);  // 3 spare: 1 before, 2 behind
  CHECK(crop(got, 1, 1, 8, 8) == p);
  picture black = got;
  for (int y = 1; y < 9; ++y) std::fill_n(black.row(y) + 3, 24, std::uint8_t{0});
  CHECK(black == picture{11, 11});
  picture const wide =
      evaluation_transform(gradient(8, 20), 11, 8);  // padded above, cropped beside: (20 - 11) / 2 -> 4
  CHECK(crop(wide, 1, 0, 8, 11) == crop(gradient(8, 20), 0, 4, 8, 11));
}

TEST_CASE("evaluation_transform: rectangles are covered at the picture's own aspect") {
  CHECK(evaluation_resize({224, 224}) == image_extent{256, 256});
  CHECK(evaluation_resize({192, 320}) == image_extent{219, 365});
  picture const p = gradient(90, 120);
  // resize 64 x 128 of 90 x 120: width decides, 128 wide and 96 high
  picture const whole = resize(p, 96, 128, resize_filter::bilinear);
  CHECK(evaluation_transform(p, {56, 112}, {64, 128}) == crop(whole, 20, 8, 56, 112));
  CHECK(evaluation_transform(p, image_extent{56, 112}) == evaluation_transform(p, {56, 112}, {64, 128}));
  CHECK(evaluation_transform(p, image_extent{224, 224}) == evaluation_transform(p));
}

TEST_CASE("evaluation_transform: extreme aspects cost what the crop costs") {
  picture const line = gradient(1, 100000);  // resized whole this would be 256 x 25600000
  picture const got = evaluation_transform(line);
  CHECK(got.height == 224);
  CHECK(got.width == 224);
  for (int y = 1; y < 224; ++y) REQUIRE(std::equal(got.row(0), got.row(0) + got.stride(), got.row(y)));
}

TEST_CASE("evaluation_transform: pictures without pixels and empty extents are refused") {
  CHECK_THROWS_AS((void)evaluation_transform(picture{}), shape_error);
  CHECK_THROWS_AS((void)evaluation_transform(gradient(4, 4), 0, 8), shape_error);
  CHECK_THROWS_AS((void)evaluation_transform(gradient(4, 4), 8, -1), shape_error);
}

TEST_CASE("normalise: planar, each channel by its own statistics, to float's last bit") {
  picture p{16, 48};  // every byte value in every channel
  for (std::size_t i = 0; i < p.pixels.size(); ++i) p.pixels[i] = static_cast<std::uint8_t>(i / 3 + 85 * (i % 3));
  std::vector<float> out(p.pixels.size(), std::numeric_limits<float>::quiet_NaN());
  normalise(p, out);
  float const mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
  for (std::size_t i = 0; i < p.pixels.size(); ++i) {
    std::size_t const c = i % 3;
    float const scaled = static_cast<float>(p.pixels[i]) / 255.0f;
    float const shifted = scaled - mean[c];
    REQUIRE(out[c * 768 + i / 3] == shifted / std[c]);
    double const exact = (p.pixels[i] / 255.0 - static_cast<double>(mean[c])) / static_cast<double>(std[c]);
    REQUIRE(std::abs(static_cast<double>(out[c * 768 + i / 3]) - exact) <= 5e-7);
  }
}

TEST_CASE("normalise: any statistics; a wrong output size throws and writes nothing") {
  picture p{1, 2};
  p.pixels = {0, 51, 102, 255, 204, 153};
  std::vector<float> out(6, -9.0f);
  CHECK_THROWS_AS(normalise(p, std::span{out}.first(5)), shape_error);
  CHECK_THROWS_AS(normalise(picture{}, std::span{out}.first(0)), shape_error);
  CHECK(out == std::vector<float>(6, -9.0f));
  normalise(p, out, {{0, 0, 0}, {1, 2, 4}});
  CHECK(out == std::vector<float>{0.0f, 1.0f, 0.2f / 2, 0.8f / 2, 0.4f / 4, 0.6f / 4});
}

TEST_CASE("normalise: bytes alone are pixels as a picture's are; what is no whole pixel is refused") {
  picture const p = gradient(5, 7);
  std::vector<float> from_picture(p.pixels.size()), from_bytes(p.pixels.size(), -9.0f);
  normalise(p, from_picture);
  std::span<std::uint8_t const> const bytes{p.pixels};
  CHECK_THROWS_AS(normalise(bytes.first(103), std::span{from_bytes}.first(103)), shape_error);
  CHECK_THROWS_AS(normalise(bytes, std::span{from_bytes}.first(102)), shape_error);
  CHECK(from_bytes == std::vector<float>(p.pixels.size(), -9.0f));
  normalise(bytes, from_bytes);
  CHECK(from_bytes == from_picture);
}
