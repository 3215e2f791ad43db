// Parts of pictures, decoded alone, against the whole picture and then the cut.
#include <dm2/core/random.hpp>
#include <dm2/data/encoded_picture.hpp>

#include "data/golden_images.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#ifdef DM2_WITH_JPEG
#include "data/make_jpeg.hpp"
#endif

using namespace dm2;
using namespace dm2::test;

namespace {

std::filesystem::path const name = "picture";

picture cut(picture const& p, pixel_box box) { return detail::copy_box(p, box); }

/// Any box, the smallest and those at the edges often.
pixel_box draw_any(int height, int width, random_stream& random) {
  auto const part = [&](int size) {
    int first = int(random.below(std::uint32_t(size))), count = 1 + int(random.below(std::uint32_t(size - first)));
    switch (random.below(5)) {
      case 0:
        count = size - first;
        break;
      case 1:
        count = 1;
        break;
      case 2:
        count = first + 1;
        first = 0;
        break;
      default:
        break;
    }
    return std::pair{first, count};
  };
  auto const [top, rows] = part(height);
  auto const [left, columns] = part(width);
  return {top, left, rows, columns};
}

/// Boxes of the file that differ from the whole picture's.
int different(std::vector<std::byte> const& file, int boxes, std::uint32_t key) {
  picture const want = decode_image(file, name);
  random_stream random{17, key, 0};
  int bad = 0;
  for (int i = 0; i < boxes; ++i) {
    pixel_box const box = draw_any(want.height, want.width, random);
    encoded_picture from{file, name};
    REQUIRE(from.height() == want.height);
    REQUIRE(from.width() == want.width);
    if (from.part(box) != cut(want, box)) ++bad;
  }
  return bad;
}

picture noise(int height, int width, std::uint32_t key) {
  picture p{height, width};
  random_stream random{5, key, 1};
  for (auto& v : p.pixels) v = std::uint8_t(random.bits());
  return p;
}

}  // namespace

TEST_CASE("encoded_picture: parts of the golden pictures have the whole pictures' pixels") {
  std::uint32_t key = 0;
  for (char const* file : golden_pictures) {
    CAPTURE(file);
    CHECK(different(file_bytes(golden_image(file)), 200, key++) == 0);
  }
}

TEST_CASE("encoded_picture: whole, then a part, then another one are each decoded anew") {
  for (char const* file : {"photo.jpg", "rgb.png"}) {
    auto const bytes = file_bytes(golden_image(file));
    encoded_picture from{bytes, name};
    picture const want = decode_image(bytes, name);
    pixel_box const box{1, 2, want.height / 2, want.width / 3};
    CHECK(from.whole() == want);
    CHECK(from.part(box) == cut(want, box));
    CHECK(from.part({0, 0, want.height, want.width}) == want);
    CHECK(from.whole() == want);
    CHECK(from.name() == name);
  }
}

TEST_CASE("encoded_picture: a box outside the picture, or an empty one, is refused with both sizes") {
  auto const bytes = file_bytes(golden_image("photo.jpg"));
  encoded_picture from{bytes, name};
  int const h = from.height(), w = from.width();
  for (pixel_box const box : {pixel_box{0, 0, h + 1, w}, {0, 1, h, w}, {-1, 0, 2, 2}, {0, 0, 0, 2}, {h, 0, 1, 1}})
    CHECK_THROWS_AS((void)from.part(box), shape_error);
}

#ifdef DM2_WITH_JPEG

TEST_CASE("encoded_picture: parts are the whole's for every chroma layout, progressive files and restart intervals") {
  std::uint32_t key = 100;
  for (auto const& size : {std::pair{1, 1}, {7, 9}, {8, 16}, {33, 47}, {64, 81}, {65, 130}})
    for (int const horizontal : {1, 2, 3, 4})
      for (int const vertical : {1, 2})
        for (bool const progressive : {false, true})
          for (unsigned const restart : {0u, 1u, 5u}) {
            int const height = size.first, width = size.second;
            ++key;
            jpeg_recipe const r{.horizontal = horizontal,
                                .vertical = vertical,
                                .progressive = progressive,
                                .restart_interval = restart,
                                .quality = 60 + int(key % 40)};
            CAPTURE(height);
            CAPTURE(width);
            CAPTURE(horizontal);
            CAPTURE(vertical);
            CAPTURE(progressive);
            CAPTURE(restart);
            picture const p = noise(height, width, key);
            CHECK(different(make_jpeg(p.pixels, height, width, r), 25, key) == 0);
          }
}

TEST_CASE("encoded_picture: parts are the whole's for grey, RGB, CMYK and arithmetic-coded files") {
  picture const p = noise(50, 70, 3);
  std::vector<std::uint8_t> four(std::size_t{50} * 70 * 4);
  random_stream random{9, 0, 0};
  for (auto& v : four) v = std::uint8_t(random.bits());
  std::vector<std::uint8_t> const one(p.pixels.begin(), p.pixels.begin() + 50 * 70);
  CHECK(different(make_jpeg(one, 50, 70, {.components = 1, .given = JCS_GRAYSCALE, .stored = JCS_GRAYSCALE}), 60, 1) ==
        0);
  CHECK(different(make_jpeg(p.pixels, 50, 70, {.stored = JCS_RGB}), 60, 2) == 0);
  CHECK(different(make_jpeg(p.pixels, 50, 70, {.horizontal = 2, .vertical = 2, .arithmetic = true}), 60, 3) == 0);
  for (J_COLOR_SPACE const stored : {JCS_CMYK, JCS_YCCK})
    for (int const factor : {1, 2})
      CHECK(different(
                make_jpeg(four, 50, 70, {.components = 4, .given = JCS_CMYK, .stored = stored, .horizontal = factor}),
                60, 4) == 0);
}

TEST_CASE("encoded_picture: a truncated JPEG is refused whatever part of it is asked for") {
  picture const p = noise(64, 64, 1);
  for (bool const progressive : {false, true}) {
    auto const file = make_jpeg(p.pixels, 64, 64, {.horizontal = 2, .vertical = 2, .progressive = progressive});
    for (std::size_t const size : {file.size() / 2, file.size() * 9 / 10, file.size() - 3}) {
      std::vector<std::byte> const cut_off(file.begin(), file.begin() + std::ptrdiff_t(size));
      encoded_picture from{cut_off, name};
      for (int attempt = 0; attempt < 2; ++attempt)
        CHECK(contains(refusal(name, [&] { (void)from.part({0, 0, 8, 8}); }), "JPEG"));
    }
  }
}

TEST_CASE("encoded_picture: damage above a part or in it is refused as in the whole; below it nothing is read") {
  picture const p = noise(128, 64, 1);
  auto file = make_jpeg(p.pixels, 128, 64, {});
  auto const whole = file;
  std::size_t const at = file.size() / 2;
  std::fill(file.begin() + std::ptrdiff_t(at), file.begin() + std::ptrdiff_t(at) + 40, std::byte{0xFF});
  CHECK(contains(refusal(name, [&] { (void)decode_image(file, name); }), "JPEG"));
  encoded_picture damaged{file, name}, sound{whole, name};
  CHECK(damaged.part({0, 0, 16, 64}) == sound.part({0, 0, 16, 64}));
  CHECK(contains(refusal(name, [&] { (void)damaged.part({100, 0, 28, 64}); }), "JPEG"));
  CHECK(contains(refusal(name, [&] { (void)damaged.part({30, 5, 60, 20}); }), "JPEG"));
  decode_options const keep{.keep_damaged = true};
  CHECK(encoded_picture{file, name, keep}.part({0, 0, 128, 3}).height == 128);
}

TEST_CASE("encoded_picture: a file that ends early with an end marker of its own is damaged, and does not hang") {
  picture const p = noise(64, 64, 1);
  auto const whole = make_jpeg(p.pixels, 64, 64, {.horizontal = 2, .vertical = 2});
  std::vector<std::byte> file(whole.begin(), whole.begin() + std::ptrdiff_t(whole.size() / 3));
  file.push_back(std::byte{0xFF});
  file.push_back(std::byte{JPEG_EOI});
  encoded_picture from{file, name};
  CHECK(contains(refusal(name, [&] { (void)from.part({50, 0, 10, 30}); }), "JPEG"));
}

#endif
