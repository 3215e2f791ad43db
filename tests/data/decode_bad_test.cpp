/// @file
/// Files that must be refused: with the path and the reason, in little memory, and never by a crash.
#include <dm2/core/error.hpp>
#include <dm2/data/decode.hpp>
#if defined(DM2_WITH_STB) || !defined(DM2_WITH_JPEG) || !defined(DM2_WITH_PNG)
#include <dm2/data/decode/stb.hpp>
#define DM2_TEST_STB 1
#endif

#include <doctest/doctest.h>

#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/golden_images.hpp"
#include "support/allocation_counter.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

using decoder = std::function<picture(std::span<std::byte const>, std::string const&)>;

/// Every decoder that this build can run on such a file.
std::vector<decoder> decoders() {
  std::vector<decoder> all{
      [](std::span<std::byte const> file, std::string const& name) { return decode_image(file, name); }};
#ifdef DM2_TEST_STB
  all.emplace_back([](std::span<std::byte const> file, std::string const& name) { return decode_stb(file, name); });
#endif
  return all;
}

/// The message with which it is refused; empty if a picture came out.
std::string refusal(decoder const& decode, std::span<std::byte const> file, std::string const& name) {
  try {
    (void)decode(file, name);
    return {};
  } catch (file_error const& e) {
    return e.what();
  }
}

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

void put_u32(std::vector<std::byte>& file, std::size_t at, std::uint32_t v) {
  for (std::size_t i = 0; i < 4; ++i) file[at + i] = static_cast<std::byte>(v >> (24 - 8 * i));
}

}  // namespace

TEST_CASE("bad files: each is refused with its path and the reason, in memory bounded by its size") {
  struct bad {
    char const *name, *reason;
  };
  for (bad const& one : {bad{"bad_truncated.jpg", "truncated"}, bad{"bad_text.jpg", "neither a JPEG nor a PNG"},
                         bad{"bad_empty.png", "is empty"}, bad{"bad_bomb.png", "60000 x 60000"}}) {
    CAPTURE(one.name);
    std::string const path = golden_image(one.name).string();
    std::size_t const size = std::filesystem::file_size(path);
    allocation_counter const counter;
    std::string message;
    try {
      (void)read_image(path);
    } catch (file_error const& e) {
      message = e.what();
    }
    CHECK(counter.bytes() <= 17 * size + 16384);  // the constant: decoder state and messages
    CHECK(message.starts_with(path));
    CHECK(contains(message, one.reason));
  }
}

TEST_CASE("bad files: stand-alone decoders refuse them too") {
  for (decoder const& decode : decoders())
    for (std::string const name : {"bad_truncated.jpg", "bad_text.jpg", "bad_empty.png", "bad_bomb.png"}) {
      CAPTURE(name);
      CHECK(refusal(decode, file_bytes(golden_image(name)), name).starts_with(name));
    }
}

TEST_CASE("read_image: missing files and folders are refused by name") {
  CHECK_THROWS_AS((void)read_image(golden_image("no_such_file.png")), file_error);
  CHECK_THROWS_AS((void)read_image(golden_image("")), file_error);
}

TEST_CASE("truncation: a PNG cut before its last row's data ends is refused") {
  for (decoder const& decode : decoders())
    for (std::string const name : {"rgb.png", "palette.png", "alpha.png", "one_pixel.png"}) {
      CAPTURE(name);
      auto const file = file_bytes(golden_image(name));
      std::size_t const step = file.size() > 1000 ? 37 : 1;
      for (std::size_t n = 0; n + 16 < file.size(); n += step) {  // 16: the end chunk, and the last IDAT's checksum
        CAPTURE(n);
        CHECK(refusal(decode, std::span{file}.first(n), name) != "");
      }
    }
}

TEST_CASE("truncation: a JPEG cut anywhere but in its last bytes is refused") {
  for (decoder const& decode : decoders())
    for (std::string const name : {"gray.jpg", "progressive.jpg", "cmyk.jpg", "full_chroma.jpg", "rotated_exif.jpg"}) {
      CAPTURE(name);
      auto const file = file_bytes(golden_image(name));
      for (std::size_t n = 0; n + 8 < file.size(); n += n < 700 ? 1 : 97) {
        CAPTURE(n);
        CHECK(refusal(decode, std::span{file}.first(n), name) != "");
      }
    }
}

TEST_CASE("damage: flipped bytes give a picture of the announced size or a file_error, nothing else") {
  std::mt19937 random{7};
  for (decoder const& decode : decoders())
    for (std::string const name : {"gray.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "rgb.png"}) {
      auto const file = file_bytes(golden_image(name));
      for (int i = 0; i < 300; ++i) {
        auto broken = file;
        for (int k = 0; k < 1 + i % 4; ++k) {
          std::size_t const range = i % 2 == 0 ? std::min<std::size_t>(700, file.size()) : file.size();
          broken[random() % range] = static_cast<std::byte>(random() % 256);
        }
        try {
          picture const p = decode(broken, name);
          CHECK(p.pixels.size() == static_cast<std::size_t>(p.height) * p.stride());
        } catch (file_error const& e) {
          CHECK(std::string{e.what()}.starts_with(name));
        }
      }
    }
}

TEST_CASE("damage: a Huffman table of more codes than bytes have values is refused") {
  auto const file = file_bytes(golden_image("gray.jpg"));
  std::string const text{reinterpret_cast<char const*>(file.data()), file.size()};
  std::size_t const table = text.find("\xff\xc4");
  REQUIRE(table != std::string::npos);
  for (decoder const& decode : decoders()) {
    auto broken = file;
    for (std::size_t i = 0; i < 16; ++i) broken[table + 5 + i] = std::byte{0xff};
    CHECK(contains(refusal(decode, broken, "table.jpg"), "Huffman table"));
  }
}

TEST_CASE("limits: max_pixels is held before memory is taken") {
  for (std::string const name : {"photo.jpg", "rgb.png"}) {
    auto const file = file_bytes(golden_image(name));
    picture const p = decode_image(file, name);
    auto const count = static_cast<std::uint64_t>(p.height) * static_cast<std::uint64_t>(p.width);
    CHECK_NOTHROW((void)decode_image(file, name, {.max_pixels = count}));
    allocation_counter const counter;
    CHECK_THROWS_AS((void)decode_image(file, name, {.max_pixels = count - 1}), file_error);
    CHECK(counter.bytes() < 16384);
  }
}

TEST_CASE("limits: a header that announces more than the file can hold is refused though under max_pixels") {
  for (decoder const& decode : decoders()) {
    auto png = file_bytes(golden_image("rgb.png"));
    put_u32(png, 16, 13000);  // 13000 x 13000 x 3 is over 1032 times the file's 7012 bytes
    put_u32(png, 20, 13000);
    CHECK(contains(refusal(decode, png, "claims.png"), "more than the file's 7012 bytes can hold"));
    auto jpeg = file_bytes(golden_image("gray.jpg"));
    std::size_t frame = 2;  // walk to the frame header, FF C0, whose height and width follow length and precision
    while (std::to_integer<unsigned>(jpeg[frame + 1]) != 0xc0)
      frame += 2 + (std::to_integer<std::size_t>(jpeg[frame + 2]) << 8) + std::to_integer<std::size_t>(jpeg[frame + 3]);
    for (std::size_t i = 5; i < 9; ++i) jpeg[frame + i] = std::byte{0x30};  // 12336 x 12336
    allocation_counter const counter;
    CHECK(contains(refusal(decode, jpeg, "claims.jpg"), "more than the file's 3170 bytes can hold"));
    CHECK(counter.bytes() < 16384);
  }
}

TEST_CASE("limits: sides of zero, or past what an int holds, are refused") {
  for (decoder const& decode : decoders())
    for (std::uint32_t const side : {0u, 0x80000000u, 0xffffffffu}) {
      auto png = file_bytes(golden_image("rgb.png"));
      put_u32(png, 16, side);
      CHECK(refusal(decode, png, "sides.png") != "");
      put_u32(png, 20, side);
      CHECK(refusal(decode, png, "sides.png") != "");
    }
}

TEST_CASE("bad files: a picture that memory has no room for is named, with its size") {
  allocation_counter const seen;
  std::vector<std::string> const probe(1);
  if (seen.calls() == 0) return;  // a sanitizer brings an operator new of its own, which knows no limit
  for (auto const& [name, size] :
       {std::pair{"photo.jpg", " (375 x 500 pixels)"}, {"progressive.jpg", " pixels)"}, {"wide.png", " pixels)"}}) {
    std::string const picture = name;  // clang 14 lets no lambda name a structured binding, and CAPTURE is one
    CAPTURE(picture);
    auto const file = file_bytes(golden_image(name));
    std::string why;
    {
      allocation_limit const limit{10'000};
      why = refusal(decoders().front(), file, name);
    }
    CHECK(why.starts_with(std::string{name} + ": memory ran out ("));
    CHECK(why.ends_with(size));
  }
}

namespace {

/// A JPEG's segment: FF, its code, its length, its content.
std::string segment(int code, std::string const& content) {
  std::size_t const length = content.size() + 2;
  return std::string{'\xff', char(code), char(length >> 8), char(length & 255)} + content;
}
std::vector<std::byte> as_bytes(std::string const& text) {
  auto const* const first = reinterpret_cast<std::byte const*>(text.data());
  return {first, first + text.size()};
}

/// An 8 x 8 grey JPEG made of the named segments.
std::vector<std::byte> tiny_jpeg(bool quantisation, bool direct, bool alternating, int scans = 1, int frame = 0xc0,
                                 char tables = 0) {
  std::string const one_code = std::string{1} + std::string(15, '\0') + std::string(1, '\0');
  std::string file = "\xff\xd8";
  if (quantisation) file += segment(0xdb, std::string(1, '\0') + std::string(64, '\1'));
  if (direct) file += segment(0xc4, std::string(1, '\0') + one_code);
  if (alternating) file += segment(0xc4, "\x10" + one_code);
  file += segment(frame, std::string{8, 0, 8, 0, 8, 1, 1, 0x11, 0});
  for (int i = 0; i < scans; ++i) file += segment(0xda, std::string{1, 1, tables, 0, 63, 0}) + std::string(4, '\0');
  return as_bytes(file + "\xff\xd9");
}

}  // namespace

#ifdef DM2_TEST_STB
TEST_CASE("stb_image: a JPEG whose scan names a table that is not there is refused before it is decoded") {
  auto const why = [](std::vector<std::byte> const& file) {
    return refusal([](auto f, auto const& n) { return decode_stb(f, n); }, file, "tiny.jpg");
  };
  CHECK(why(tiny_jpeg(true, true, true)) == "");
  CHECK(contains(why(tiny_jpeg(false, true, true)), "quantisation table 0 is named and not there"));
  CHECK(contains(why(tiny_jpeg(true, false, true)), "Huffman table 0 is named by a scan and not there"));
  CHECK(contains(why(tiny_jpeg(true, true, false)), "Huffman table 0 is named by a scan and not there"));
  CHECK(contains(why(tiny_jpeg(true, true, true, 1, 0xc0, 0x10)), "Huffman table 1 is named"));
  CHECK(contains(why(tiny_jpeg(true, true, true, 1, 0xc0, 0x01)), "Huffman table 1 is named"));
  CHECK(contains(why(tiny_jpeg(true, true, true, 1, 0xc0, 0x40)), "Huffman table 4 is named"));
  CHECK(contains(why(tiny_jpeg(true, true, true, 501)), "more than 500 scans"));
  CHECK(contains(why(as_bytes("\xff\xd8" + segment(0xda, std::string{1, 1, 0, 0, 63, 0}) + "\xff\xd9")),
                 "a scan begins before the frame"));
}

TEST_CASE("stb_image: a PNG that repeats from a distance that Deflate reserves has no pixels of other memory") {
  // A row of 4 grey pixels: its filter and a pixel, then a repeat of 3 bytes with the distance's code 30, in fixed
  // codes.
  std::string const packed{"\x78\x9c\x63\x60\0\x3e\0\0\x05\0\x01", 11};
  std::string const head{0, 0, 0, 4, 0, 0, 0, 1, 8, 0, 0, 0, 0};
  auto const chunk = [](char const* kind, std::string const& content) {
    return std::string{0, 0, 0, char(content.size())} + kind + content + std::string(4, '\0');
  };
  std::string const file = "\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + chunk("IDAT", packed) + chunk("IEND", "");
  CHECK(contains(refusal([](auto f, auto const& n) { return decode_stb(f, n); }, as_bytes(file), "reserved.png"),
                 "a distance that Deflate reserves"));
}

TEST_CASE("stb_image: a PNG whose chunk passes the file's end, or that unpacks to too much, takes no memory for it") {
  auto const why = [](std::vector<std::byte> const& file) {
    return refusal([](auto f, auto const& n) { return decode_stb(f, n); }, file, "claims.png");
  };
  auto png = file_bytes(golden_image("rgb.png"));
  CHECK(why(png) == "");
  put_u32(png, 33, 0x54494441);  // the length of the chunk after the header
  CHECK(contains(why(png), "a chunk passes its end"));
  auto bomb = file_bytes(golden_image("rgb.png"));
  put_u32(bomb, 16, 5);  // pixels of many rows under a header of one
  put_u32(bomb, 20, 1);
  CHECK(contains(why(bomb), "more than the header announces"));
  auto apple = file_bytes(golden_image("rgb.png"));
  std::string const chunk = std::string{0, 0, 0, 0} + "CgBI" + std::string(4, '\0');
  auto const extra = as_bytes(chunk);
  apple.insert(apple.begin() + 33, extra.begin(), extra.end());
  CHECK(contains(why(apple), "CgBI"));
}
#endif

TEST_CASE("limits: max_scans is held by every decoder") {
  auto const progressive = file_bytes(golden_image("progressive.jpg"));
  CHECK_NOTHROW((void)decode_image(progressive, "p.jpg", {.max_scans = 10}));
  CHECK(contains(
      refusal([](auto f, auto const& n) { return decode_image(f, n, {.max_scans = 4}); }, progressive, "p.jpg"),
      "more than 4 scans"));
}
