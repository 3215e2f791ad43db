/// @file
/// JPEG files of the kinds that the golden pictures lack.
#include <dm2/data/decode.hpp>

#include <doctest/doctest.h>

#include "data/golden_images.hpp"

#ifndef DM2_WITH_JPEG

TEST_CASE("decode_jpeg: absent without libjpeg; decode_image reads JPEG all the same") {
  CHECK_NOTHROW((void)dm2::read_image(dm2::test::golden_image("photo.jpg")));
}

#else

#include <algorithm>
#include <string>

#include "data/make_jpeg.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

picture smooth(int height, int width) {  // little detail, so that a good encoding stays within a few levels
  picture p{height, width};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      std::uint8_t* const rgb = p.row(y) + 3 * x;
      rgb[0] = static_cast<std::uint8_t>(40 + x);
      rgb[1] = static_cast<std::uint8_t>(200 - y);
      rgb[2] = static_cast<std::uint8_t>(90 + (x + y) / 2);
    }
  return p;
}

std::vector<std::byte> encoded(picture const& p, jpeg_recipe const& r) {
  return make_jpeg(p.pixels, p.height, p.width, r);
}

}  // namespace

TEST_CASE("decode_jpeg: every chroma layout gives the picture back, at sides that no block size divides") {
  picture const want = smooth(61, 83);
  for (auto const& factors : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {4, 2}, {2, 4}}) {
    int const h = factors.first, v = factors.second;
    CAPTURE(h);
    CAPTURE(v);
    distance const d = difference(decode_jpeg(encoded(want, {.horizontal = h, .vertical = v}), "layout.jpg"), want);
    CHECK(d.largest <= 8);
    CHECK(d.mean <= 1.5);
  }
}

TEST_CASE("decode_jpeg: one coefficient set gives one picture, however it is coded") {
  picture const p = gradient(75, 101);
  picture const want = decode_jpeg(encoded(p, {.horizontal = 2, .vertical = 2}), "plain.jpg");
  jpeg_recipe const base{.horizontal = 2, .vertical = 2};
  for (int kind = 0; kind < 5; ++kind) {
    CAPTURE(kind);
    jpeg_recipe r = base;
    r.restart_interval = kind == 0 || kind == 1 ? 3 : 0;
    r.progressive = kind == 1 || kind == 2;
    r.optimise = kind == 3;
    r.arithmetic = kind == 4;
    CHECK(decode_jpeg(encoded(p, r), "coded.jpg") == want);
  }
}

TEST_CASE("decode_jpeg: RGB stored as RGB, and grey, come back") {
  picture const p = smooth(40, 56);
  CHECK(difference(decode_jpeg(encoded(p, {.stored = JCS_RGB}), "rgb.jpg"), p).largest <= 4);
  std::vector<std::uint8_t> grey;
  for (std::size_t i = 0; i < p.pixels.size(); i += 3) grey.push_back(p.pixels[i]);
  jpeg_recipe const r{.components = 1, .given = JCS_GRAYSCALE, .stored = JCS_GRAYSCALE};
  picture const got = decode_jpeg(make_jpeg(grey, p.height, p.width, r), "grey.jpg");
  for (std::size_t i = 0; i < grey.size(); ++i) {
    CHECK(std::abs(int{got.pixels[3 * i]} - int{grey[i]}) <= 3);
    REQUIRE(got.pixels[3 * i] == got.pixels[3 * i + 1]);
    REQUIRE(got.pixels[3 * i] == got.pixels[3 * i + 2]);
  }
}

TEST_CASE("decode_jpeg: CMYK and YCCK are read as inverted inks over white") {
  // 0 is full ink here. Multiplying the light that colour and black let through is the definition.
  struct patch {
    std::uint8_t c, m, y, k;
  };
  for (patch const& ink :
       {patch{255, 255, 255, 255}, {0, 0, 0, 0}, {255, 0, 128, 255}, {30, 200, 90, 170}, {7, 8, 9, 1}}) {
    std::vector<std::uint8_t> pixels;
    for (int i = 0; i < 16 * 16; ++i) pixels.insert(pixels.end(), {ink.c, ink.m, ink.y, ink.k});
    for (J_COLOR_SPACE const stored : {JCS_CMYK, JCS_YCCK}) {
      jpeg_recipe const r{.components = 4, .given = JCS_CMYK, .stored = stored, .quality = 100};
      picture const got = decode_jpeg(make_jpeg(pixels, 16, 16, r), "inks.jpg");
      int const want[3] = {ink.c * ink.k / 255, ink.m * ink.k / 255, ink.y * ink.k / 255};
      for (std::size_t i = 0; i < got.pixels.size(); ++i) CHECK(std::abs(int{got.pixels[i]} - want[i % 3]) <= 3);
    }
  }
}

TEST_CASE("decode_jpeg: two components are refused") {
  std::vector<std::uint8_t> const pixels(2 * 8 * 8, 100);
  jpeg_recipe const r{.components = 2, .given = JCS_UNKNOWN, .stored = JCS_UNKNOWN};
  CHECK_THROWS_WITH_AS((void)decode_jpeg(make_jpeg(pixels, 8, 8, r), "two.jpg"),
                       "two.jpg: JPEG has 2 components; 1, 3 or 4 can be read", file_error);
}

TEST_CASE("decode_jpeg: a file without its end marker is refused, and what follows the marker is not looked at") {
  picture const p = gradient(48, 64);
  for (bool const progressive : {false, true}) {
    auto file = encoded(p, {.progressive = progressive});
    picture const want = decode_jpeg(file, "whole.jpg");
    CHECK_THROWS_AS((void)decode_jpeg(std::span{file}.first(file.size() - 2), "cut.jpg"), file_error);
    file.insert(file.end(), 100, std::byte{0x55});
    CHECK(decode_jpeg(file, "long.jpg") == want);
  }
}

TEST_CASE("decode_jpeg: damaged data is refused, unless it is asked for") {
  picture const p = gradient(96, 96);
  auto file = encoded(p, {.restart_interval = 12});
  // an end marker in the middle: what follows is lost, though every row decodes to something
  std::size_t const middle = file.size() / 2;
  file[middle] = std::byte{0xff};
  file[middle + 1] = std::byte{0xd9};
  CHECK_THROWS_AS((void)decode_jpeg(file, "damaged.jpg"), file_error);
  picture const got = decode_jpeg(file, "damaged.jpg", {.keep_damaged = true});
  CHECK(got.height == 96);
  CHECK(std::equal(got.row(0), got.row(8), decode_jpeg(encoded(p, {}), "whole.jpg").row(0)));
}

TEST_CASE("decode_jpeg: a flat picture, which compresses best, is not taken for a bomb") {
  picture p{2048, 2048};
  std::ranges::fill(p.pixels, std::uint8_t{128});
  for (bool const progressive : {false, true}) {
    auto const file = encoded(p, {.horizontal = 2, .vertical = 2, .progressive = progressive, .optimise = true});
    CHECK(decode_jpeg(file, "flat.jpg") == p);
  }
}

#endif
