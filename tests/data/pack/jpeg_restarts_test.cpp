// JPEGs rewritten with restart markers: the same pixels, whatever they were.
#ifdef DM2_WITH_JPEG

#include <dm2/core/random.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/pack/jpeg_restarts.hpp>

#include "data/golden_images.hpp"
#include "data/make_jpeg.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

std::filesystem::path const name = "picture";

/// How often a marker FF code stands in the file from its first scan on.
std::size_t markers(std::vector<std::byte> const& file, unsigned least, unsigned most) {
  std::size_t count = 0;
  for (std::size_t i = 0; i + 1 < file.size(); ++i) {
    auto const code = std::to_integer<unsigned>(file[i + 1]);
    count += file[i] == std::byte{0xFF} && code >= least && code <= most;
  }
  return count;
}

/// Decodes to the same pixels, in one baseline scan of intervals as long as a row of blocks.
void check_rewritten(std::vector<std::byte> const& file, int block_rows) {
  auto const out = detail::with_restarts(file, name, {});
  CHECK(decode_image(out, name) == decode_image(file, name));
  CHECK(markers(out, 0xD0, 0xD7) == std::size_t(block_rows - 1));
  CHECK(markers(out, 0xDA, 0xDA) == 1);
  CHECK(markers(out, 0xC2, 0xC2) == 0);
  CHECK(out == detail::with_restarts(out, name, {}));
}

}  // namespace

TEST_CASE("with_restarts: every golden JPEG has the same pixels, a marker after each row of blocks, and fewer bytes") {
  for (char const* golden :
       {"photo.jpg", "portrait.jpg", "progressive.jpg", "full_chroma.jpg", "gray.jpg", "cmyk.jpg"}) {
    CAPTURE(golden);
    auto const file = file_bytes(golden_image(golden));
    auto const out = detail::with_restarts(file, name, {});
    CHECK(decode_image(out, name) == decode_image(file, name));
    CHECK(markers(out, 0xDA, 0xDA) == 1);
    CHECK(markers(out, 0xD0, 0xD7) > 2);
    CHECK(out.size() < file.size() * 21 / 20);
  }
}

TEST_CASE("with_restarts: every layout, size, progression and interval keeps its pixels") {
  std::uint32_t key = 0;
  for (auto const& size : {std::pair{1, 1}, {8, 8}, {17, 9}, {33, 47}, {64, 81}})
    for (int const horizontal : {1, 2, 4})
      for (int const vertical : {1, 2})
        for (bool const progressive : {false, true})
          for (unsigned const restart : {0u, 3u}) {
            picture p{size.first, size.second};
            random_stream random{3, ++key, 0};
            for (auto& v : p.pixels) v = std::uint8_t(random.bits());
            check_rewritten(make_jpeg(p.pixels, p.height, p.width,
                                      {.horizontal = horizontal,
                                       .vertical = vertical,
                                       .progressive = progressive,
                                       .restart_interval = restart}),
                            (p.height + 8 * vertical - 1) / (8 * vertical));
          }
  picture const p = gradient(30, 50);
  check_rewritten(make_jpeg(p.pixels, 30, 50, {.stored = JCS_RGB}), 4);
  check_rewritten(make_jpeg(p.pixels, 30, 50, {.arithmetic = true}), 4);
  std::vector<std::uint8_t> four(std::size_t{30} * 50 * 4);
  for (std::size_t i = 0; i < four.size(); ++i) four[i] = std::uint8_t(i * i / 7);
  for (J_COLOR_SPACE const stored : {JCS_CMYK, JCS_YCCK})
    check_rewritten(make_jpeg(four, 30, 50, {.components = 4, .given = JCS_CMYK, .stored = stored}), 4);
}

TEST_CASE("with_restarts: truncated and damaged files are refused, by their name") {
  picture const p = gradient(64, 64);
  auto file = make_jpeg(p.pixels, 64, 64, {});
  for (std::size_t const size : {file.size() / 3, file.size() * 9 / 10})
    CHECK(contains(refusal(name, [&] { (void)detail::with_restarts({file.data(), size}, name, {}); }), "JPEG"));
  std::fill(file.begin() + std::ptrdiff_t(file.size() / 2), file.begin() + std::ptrdiff_t(file.size() / 2) + 30,
            std::byte{0xFF});
  CHECK(contains(refusal(name, [&] { (void)detail::with_restarts(file, name, {}); }), "JPEG"));
  CHECK(contains(refusal(name, [&] { (void)detail::with_restarts({}, name, {}); }), "truncated"));
}

TEST_CASE("encode_jpeg: has the pixels of libjpeg's own defaults at that quality; what it cannot hold is refused") {
  picture const p = gradient(37, 51);
  for (int const quality : {1, 75, 100})
    CHECK(decode_image(detail::encode_jpeg(p, quality, name), name) ==
          decode_image(make_jpeg(p.pixels, 37, 51, {.horizontal = 2, .vertical = 2, .quality = quality}), name));
  CHECK(contains(refusal(name, [&] { (void)detail::encode_jpeg(picture{1, 65'536}, 90, name); }), "JPEG"));
  CHECK_THROWS_AS((void)detail::encode_jpeg(picture{}, 90, name), shape_error);
}

#endif
