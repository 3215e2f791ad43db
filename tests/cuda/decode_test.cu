/// @file
/// JPEGs on the device: libjpeg-turbo's pixels.
#ifdef DM2_WITH_JPEG

#include <dm2/data/pack/jpeg_restarts.hpp>

#include "cuda/decode/case.cuh"
#include "data/golden_images.hpp"

#include <algorithm>
#include <string>

using namespace dm2;
using namespace dm2::test;
using namespace dm2::test::jpeg_decoding;

namespace {

std::vector<std::byte> with_restart_rows(char const* name) {
  return detail::with_restarts(file_bytes(golden_image(name)), name, {});
}

/// MCUs of a row.
unsigned mcus_across(int width, jpeg_recipe const& r) { return unsigned((width - 1) / (8 * r.horizontal) + 1); }

}  // namespace

TEST_CASE("jpeg_decoder: the golden pictures have libjpeg-turbo's pixels, rows of blocks being apart") {
  decoded_on_device device;
  std::vector<wanted> all;
  for (char const* name :
       {"photo.jpg", "portrait.jpg", "progressive.jpg", "full_chroma.jpg", "gray.jpg", "rotated_exif.jpg"})
    all.push_back({with_restart_rows(name)});
  for (outcome const o : device(all)) CHECK(o == outcome::same);
}

TEST_CASE("jpeg_decoder: every layout, side and interval has libjpeg-turbo's pixels") {
  decoded_on_device device;
  std::mt19937 random{1};
  for (int number = 0; number < 4; ++number) {
    std::vector<wanted> all;
    for (int const height : {1, 2, 7, 8, 9, 15, 16, 17, 33})
      for (int const width : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 40}) {
        jpeg_recipe r = layout(number);
        unsigned const across = mcus_across(width, r), intervals[4] = {0, 1, across, 3 * across};
        r.restart_interval = intervals[random() % 4];
        r.quality = 1 + int(random() % 100);
        r.optimise = random() % 2 == 0;
        all.push_back({file_of(drawn(height, width, int(random() % 200), random), r)});
      }
    auto const got = device(all);
    CAPTURE(number);
    CHECK(std::count(got.begin(), got.end(), outcome::same) == std::ptrdiff_t(all.size()));
  }
}

TEST_CASE("jpeg_decoder: every quality has libjpeg-turbo's pixels") {
  decoded_on_device device;
  std::mt19937 random{2};
  std::vector<wanted> all;
  for (int quality = 1; quality <= 100; ++quality) {
    jpeg_recipe r = layout(quality % 4);
    r.quality = quality;
    r.restart_interval = 2;
    all.push_back({file_of(drawn(30 + int(random() % 20), 30 + int(random() % 20), quality % 3 * 60, random), r)});
  }
  auto const got = device(all);
  CHECK(std::count(got.begin(), got.end(), outcome::same) == 100);
}

TEST_CASE("jpeg_decoder: parts have the whole's pixels, whatever their sides fall on") {
  decoded_on_device device;
  std::mt19937 random{3};
  for (int number = 0; number < 4; ++number) {
    jpeg_recipe r = layout(number);
    r.restart_interval = number == 1 ? 5 : mcus_across(83, r);
    auto const file = file_of(drawn(71, 83, 50, random), r);
    std::vector<wanted> all;
    for (int i = 0; i < 60; ++i) {
      pixel_box box{int(random() % 71), int(random() % 83), 1, 1};
      if (i % 5 != 0) box.height += int(random() % unsigned(71 - box.top));
      if (i % 7 != 0) box.width += int(random() % unsigned(83 - box.left));
      all.push_back({file, box});
    }
    auto const got = device(all);
    CAPTURE(number);
    CHECK(std::count(got.begin(), got.end(), outcome::same) == 60);
  }
}

TEST_CASE("jpeg_decoder: pictures of one interval and of hundreds, side by side, have libjpeg-turbo's pixels") {
  decoded_on_device device;
  std::mt19937 random{5};
  std::vector<wanted> all;
  for (int const side : {8, 100, 33, 9, 150, 8, 8, 8, 8, 120, 16}) {  // 1 to 361 intervals, 11 pictures: three blocks
    jpeg_recipe r = layout(1);
    r.restart_interval = side == 33 ? 0 : 1;
    all.push_back({file_of(drawn(side, side, 60, random), r)});
  }
  for (outcome const o : device(all)) CHECK(o == outcome::same);
}

TEST_CASE("jpeg_decoder: what it cannot decode is the host's: other chroma, colours and codings, long intervals") {
  decoded_on_device device;
  std::mt19937 random{4};
  picture const p = drawn(40, 56, 60, random);
  auto const outcome_of = [&](jpeg_recipe r) { return device.one(file_of(p, r)); };
  CHECK(outcome_of({}) == outcome::same);
  CHECK(outcome_of({.horizontal = 1, .vertical = 2}) == outcome::hosts);
  CHECK(outcome_of({.horizontal = 4}) == outcome::hosts);
  CHECK(outcome_of({.stored = JCS_RGB}) == outcome::hosts);
  CHECK(outcome_of({.progressive = true}) == outcome::hosts);
  CHECK(outcome_of({.arithmetic = true}) == outcome::hosts);
  CHECK(device.one(file_bytes(golden_image("cmyk.jpg"))) == outcome::hosts);
  CHECK(device.one(file_bytes(golden_image("rgb.png"))) == outcome::hosts);
  picture const large = drawn(400, 400, 255, random), middle = drawn(150, 250, 255, random);
  CHECK(file_of(middle, {}).size() > detail::most_interval_bytes / 3);
  CHECK(device.one(file_of(middle, {})) == outcome::same);
  CHECK(device.one(file_of(large, {})) == outcome::hosts);  // one interval, too long
  CHECK(device.one(file_of(large, {.restart_interval = 50})) == outcome::same);
}

TEST_CASE("jpeg_decoder: a part outside its picture is refused, and nothing is decoded") {
  cuda::jpeg_decoder decode;
  cuda::stream stream;
  jpeg_record jpeg;
  jpeg.height = 8, jpeg.width = 9, jpeg.components = 1;
  for (pixel_box const part : {pixel_box{0, 0, 9, 9}, {0, 1, 8, 9}, {-1, 0, 2, 2}, {0, 0, 0, 3}}) {
    std::vector<cuda::jpeg_request> const one{{&jpeg, 0, part, 0}};
    CHECK_THROWS_AS(decode.enqueue(one, nullptr, nullptr, stream.get()), shape_error);
  }
  CHECK(decode.wait().empty());
}

#else  // libjpeg reads the headers: without it no file is a device's

#include <dm2/data/encoded_picture.hpp>

#include "data/golden_images.hpp"

#include <doctest/doctest.h>

TEST_CASE("jpeg_decoder: without libjpeg a device is given no file") {
  auto const file = dm2::test::file_bytes(dm2::test::golden_image("gray.jpg"));
  CHECK_FALSE(dm2::encoded_picture{file, "gray.jpg"}.for_device());
}

#endif
