/// @file
/// Event files, taken apart by hand; tensorboard_check.py reads them with TensorBoard's own reader.
#include <dm2/data/decode.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/io/protobuf_writer.hpp>
#include <dm2/train/log/tensorboard_log.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/refusal.hpp"
#include "io/scratch.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

std::span<std::byte const> bytes_of(std::string_view text) { return std::as_bytes(std::span{text}); }

template <class T>
T number_at(std::string const& text, std::size_t at) {
  T value;
  REQUIRE(at + sizeof value <= text.size());
  std::memcpy(&value, text.data() + at, sizeof value);
  return value;
}

/// The checksum by its definition: the remainder of a division of polynomials, bit by bit.
std::uint32_t slow_masked_crc(std::string const& text) {
  std::uint32_t r = ~0u;
  for (char const c : text)
    for (unsigned bit = 0; bit < 8; ++bit) {
      bool const out = ((r ^ (static_cast<unsigned char>(c) >> bit)) & 1u) != 0;
      r = out ? (r >> 1) ^ 0x82F63B78u : r >> 1;
    }
  r = ~r;
  return std::rotr(r, 15) + 0xA282EAD8u;
}

/// The payloads of a file whose framing and checksums are right.
std::vector<std::string> records(std::filesystem::path const& path) {
  std::string const file = read_raw(path);
  std::vector<std::string> out;
  for (std::size_t at = 0; at < file.size();) {
    auto const length = static_cast<std::size_t>(number_at<std::uint64_t>(file, at));
    CHECK(number_at<std::uint32_t>(file, at + 8) == slow_masked_crc(file.substr(at, 8)));
    REQUIRE(length < file.size() - at);
    out.push_back(file.substr(at + 12, length));
    CHECK(number_at<std::uint32_t>(file, at + 12 + length) == slow_masked_crc(out.back()));
    at += 16 + length;
  }
  return out;
}

/// The fields of a message: numbers as their eight bytes, the rest as it is.
std::map<std::uint64_t, std::string> fields(std::string const& message) {
  std::map<std::uint64_t, std::string> out;
  std::size_t at = 0;
  auto const varint = [&] {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      auto const byte = static_cast<unsigned char>(message.at(at++));
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    std::uint64_t const key = varint();
    std::string value;
    if ((key & 7) == 0) {
      value = raw(varint());
    } else {
      std::size_t const size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : static_cast<std::size_t>(varint());
      REQUIRE(size <= message.size() - at);
      value = message.substr(at, size);
      at += size;
    }
    CHECK(out.emplace(key >> 3, value).second);
  }
  return out;
}

}  // namespace

TEST_CASE("crc32c: the answers of RFC 3720, appendix B.4, and of the nine digits") {
  std::string rising(32, '\0');
  for (std::size_t i = 0; i < 32; ++i) rising[i] = static_cast<char>(i);
  CHECK(detail::crc32c(bytes_of("123456789")) == 0xE3069283u);
  CHECK(detail::crc32c(bytes_of(std::string(32, '\0'))) == 0x8A9136AAu);
  CHECK(detail::crc32c(bytes_of(std::string(32, '\xFF'))) == 0x62A8AB43u);
  CHECK(detail::crc32c(bytes_of(rising)) == 0x46DD794Eu);
  CHECK(detail::crc32c({}) == 0);
  CHECK(detail::masked_crc32c(bytes_of("123456789")) == slow_masked_crc("123456789"));
}

TEST_CASE("protobuf_writer: the examples of the format's own documentation") {
  detail::protobuf_writer inner, outer, text, negative, fixed;
  inner.integer(1, 150);
  outer.message(3, inner);
  text.text(2, "testing");
  negative.integer(1, -1);
  fixed.number(2, 1.0f);
  fixed.number(1, 1.0);
  auto const is = [](detail::protobuf_writer const& w, std::string const& want) {
    return std::string{reinterpret_cast<char const*>(w.data().data()), w.data().size()} == want;
  };
  CHECK(is(outer, "\x1a\x03\x08\x96\x01"));
  CHECK(is(text, "\x12\x07testing"));
  CHECK(is(negative, "\x08" + std::string(9, '\xFF') + "\x01"));
  CHECK(is(fixed, std::string{"\x15\0\0\x80\x3f\x09\0\0\0\0\0\0\xf0\x3f", 14}));
}

TEST_CASE("tensorboard_log: a version, then one event a call, whole in the file when the call returns") {
  scratch_folder const folder;
  tensorboard_log log{folder / "run"};
  CHECK(log.path().filename().string().starts_with("events.out.tfevents."));
  auto const first = records(log.path());
  REQUIRE(first.size() == 1);
  CHECK(fields(first[0]).at(3) == "brain.Event:2");
  log.scalar("loss/train", 300, 0.1);
  auto const event = fields(records(log.path()).at(1));
  CHECK(number_at<std::uint64_t>(event.at(2), 0) == 300);
  CHECK(number_at<double>(event.at(1), 0) > 1.6e9);  // seconds since 1970
  auto const value = fields(fields(event.at(5)).at(1));
  CHECK(value.at(1) == "loss/train");
  CHECK(number_at<float>(value.at(2), 0) == 0.1f);
}

TEST_CASE("tensorboard_log: a picture is a PNG file of its size") {
  scratch_folder const folder;
  tensorboard_log log{folder.path()};
  picture p{3, 5};
  for (std::size_t i = 0; i < p.pixels.size(); ++i) p.pixels[i] = static_cast<std::uint8_t>(5 * i);
  log.image("maps", 0, p);
  auto const image = fields(fields(fields(fields(records(log.path()).at(1)).at(5)).at(1)).at(4));
  CHECK(number_at<std::uint64_t>(image.at(1), 0) == 3);
  CHECK(number_at<std::uint64_t>(image.at(2), 0) == 5);
  CHECK(number_at<std::uint64_t>(image.at(3), 0) == 3);
  CHECK(decode_image(bytes_of(image.at(4)), "image") == p);
  CHECK_THROWS_AS(log.image("maps", 0, picture{}), shape_error);
  CHECK(records(log.path()).size() == 2);
}

TEST_CASE("tensorboard_log: a resumed run's file comes after all others and begins with the first step to forget") {
  scratch_folder const folder;
  write_raw(folder / "events.out.tfevents.4000000000.zzz", "");
  tensorboard_log const one{folder.path()}, two{folder.path(), 41};
  CHECK(one.path().filename().string().starts_with("events.out.tfevents.4000000001."));
  CHECK(two.path().filename().string().starts_with("events.out.tfevents.4000000002."));
  auto const event = fields(records(two.path()).at(1));
  CHECK(number_at<std::uint64_t>(event.at(2), 0) == 42);
  CHECK(number_at<std::uint64_t>(fields(event.at(7)).at(1), 0) == 1);
}

TEST_CASE("tensorboard_log: a folder that cannot be made is named") {
  scratch_folder const folder;
  write_raw(folder / "file", "");
  CHECK(contains(refusal(folder / "file" / "run", [&] { tensorboard_log{folder / "file" / "run"}; }), "cannot be"));
}
