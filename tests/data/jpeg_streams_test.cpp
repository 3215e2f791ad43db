/// @file
/// JPEGs prepared for a device: headers and data, without a device.
#ifdef DM2_WITH_JPEG

#include <dm2/data/encoded_picture.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "data/golden_images.hpp"
#include "data/make_jpeg.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

using bytes = std::vector<std::byte>;

picture noise(int height, int width, unsigned seed) {
  picture p{height, width};
  std::mt19937 random{seed};
  for (auto& v : p.pixels) v = std::uint8_t(random());
  return p;
}

std::optional<device_jpeg> opened(bytes const& file) { return encoded_picture{file, "test.jpg"}.for_device(); }

bytes streams_of(device_jpeg const& jpeg) {
  bytes out(detail::streams_extent(jpeg.header, jpeg.data.size()) + 1, std::byte{0x5A});
  std::size_t const used = detail::write_streams(jpeg.header, jpeg.data, out.data());
  CHECK(out.back() == std::byte{0x5A});
  out.resize(used);
  return out;
}

/// The data of a file again: zeros behind FF, restarts between the intervals, the end.
bytes as_in_file(jpeg_record const& header, bytes const& streams) {
  bytes out;
  for (int i = 0; i < header.intervals; ++i) {
    jpeg_interval own{};
    std::memcpy(&own, streams.data() + std::size_t(i) * sizeof own, sizeof own);
    REQUIRE(4 * std::size_t{own.first} + own.bytes <= streams.size());
    for (std::byte const b : std::span{streams}.subspan(4 * std::size_t{own.first}, own.bytes)) {
      out.push_back(b);
      if (b == std::byte{0xFF}) out.push_back(std::byte{0});
    }
    out.push_back(std::byte{0xFF});
    out.push_back(std::byte(i + 1 == header.intervals ? 0xD9 : 0xD0 + i % 8));
  }
  return out;
}

/// A file of noise, so that FF is among its data, and its quality, layout and restarts.
bytes noisy(unsigned seed, jpeg_recipe r) {
  picture const p = noise(20 + int(seed % 50), 20 + int(seed % 37), seed);
  return make_jpeg(p.pixels, p.height, p.width, r);
}

}  // namespace

TEST_CASE("write_streams: intervals with their escapes and markers again are the file's data") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    jpeg_recipe const r{.horizontal = 1 + int(seed % 2), .restart_interval = seed % 20, .quality = 40 + int(seed)};
    bytes const file = noisy(seed, r);
    auto const jpeg = opened(file);
    REQUIRE(jpeg);
    int const mcus = jpeg->header.mcus_across() * jpeg->header.mcus_down();
    int const each = seed % 20 == 0 ? mcus : std::min(mcus, int(seed % 20));
    CHECK(jpeg->header.intervals == (mcus + each - 1) / each);
    CHECK(as_in_file(jpeg->header, streams_of(*jpeg)) == bytes(jpeg->data.begin(), jpeg->data.end()));
  }
}

TEST_CASE("write_streams: whatever the data are, it writes into its room and names intervals in it") {
  std::mt19937 random{3};
  for (unsigned round = 0; round < 3000; ++round) {
    bytes file = noisy(round % 9, {.restart_interval = 1 + round % 6, .quality = 50});
    std::size_t const header = file.size() - opened(file)->data.size();
    for (int flips = 1 + int(random() % 4); flips > 0; --flips) {
      std::size_t const at = header + random() % (file.size() - header);
      file[at] = random() % 2 == 0 ? std::byte{0xFF} : std::byte(random() % 256);
    }
    auto const jpeg = opened(file);  // nothing where the end marker was hit
    if (!jpeg) continue;
    bytes const streams = streams_of(*jpeg);
    if (!streams.empty()) CHECK(streams.size() % 4 == 0);
    if (!streams.empty()) static_cast<void>(as_in_file(jpeg->header, streams));
  }
}

TEST_CASE("encoded_picture: for a device are baseline files of the known layouts, and no others") {
  picture const p = noise(40, 48, 1);
  auto const given = [&](jpeg_recipe const& r) { return opened(make_jpeg(p.pixels, 40, 48, r)).has_value(); };
  CHECK(given({}));
  CHECK(given({.horizontal = 2}));
  CHECK(given({.horizontal = 2, .vertical = 2}));
  CHECK(given({.optimise = true, .restart_interval = 3, .quality = 1}));
  CHECK_FALSE(given({.vertical = 2}));
  CHECK_FALSE(given({.horizontal = 4}));
  CHECK_FALSE(given({.horizontal = 2, .vertical = 4}));
  CHECK_FALSE(given({.stored = JCS_RGB}));
  CHECK_FALSE(given({.progressive = true}));
  CHECK_FALSE(given({.arithmetic = true}));
  CHECK(opened(file_bytes(golden_image("gray.jpg"))));
  for (char const* name : {"cmyk.jpg", "progressive.jpg", "rgb.png"})
    CHECK_FALSE(opened(file_bytes(golden_image(name))));
}

TEST_CASE("encoded_picture: a file without its end marker, and one that is decoded already, are none for a device") {
  bytes file = noisy(1, {});
  encoded_picture used{file, "test.jpg"};
  CHECK(used.for_device());
  static_cast<void>(used.whole());
  CHECK_FALSE(used.for_device());
  file.push_back(std::byte{0});
  CHECK_FALSE(opened(file));
}

TEST_CASE("jpeg_record: the rows of MCUs for a part are those that its pixels follow from, and one more is read") {
  bytes const file = make_jpeg(noise(100, 40, 2).pixels, 100, 40, {.horizontal = 2, .vertical = 2});
  auto const jpeg = opened(file);
  REQUIRE(jpeg);
  auto const rows = [&](int top, int height) { return rows_needed(jpeg->header, {top, 3, height, 5}); };
  auto const same = [](jpeg_rows r, int first, int end, int read) {
    return r.first == first && r.end == end && r.read == read;
  };
  CHECK(jpeg->header.mcus_down() == 7);
  CHECK(same(rows(0, 100), 0, 7, 7));
  CHECK(same(rows(0, 14), 0, 1, 2));
  CHECK(same(rows(0, 15), 0, 2, 3));  // row 14's chroma is near the next MCU's
  CHECK(same(rows(18, 10), 1, 2, 3));
  CHECK(same(rows(17, 10), 0, 2, 3));
  CHECK(same(rows(99, 1), 6, 7, 7));
}

#else  // libjpeg reads the headers: without it no file is a device's

#include <dm2/data/encoded_picture.hpp>

#include "data/golden_images.hpp"

#include <doctest/doctest.h>

TEST_CASE("jpeg_streams: without libjpeg a device is given no file") {
  auto const file = dm2::test::file_bytes(dm2::test::golden_image("gray.jpg"));
  CHECK_FALSE(dm2::encoded_picture{file, "gray.jpg"}.for_device());
}

#endif
