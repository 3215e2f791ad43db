/// @file
/// Damaged JPEGs on the device: told, or decoded as libjpeg does.
///
/// Under a sanitizer they show that no byte outside a picture's data is read, and none outside its pixels written.
#ifdef DM2_WITH_JPEG

#include <dm2/data/pack/jpeg_restarts.hpp>

#include "cuda/decode/case.cuh"

#include <algorithm>
#include <filesystem>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using namespace dm2::test::jpeg_decoding;

namespace {

/// Whether the device agreed with libjpeg, or left the judgement to it.
bool agrees(outcome o) { return o == outcome::same || o == outcome::damaged || o == outcome::hosts; }

std::vector<std::byte> sound_file(int number, std::mt19937& random) {
  jpeg_recipe r = layout(number);
  r.restart_interval = 1 + unsigned(random() % 6);
  r.quality = 30 + int(random() % 70);
  r.optimise = number % 2 == 0;
  return file_of(drawn(20 + int(random() % 30), 20 + int(random() % 30), 90, random), r);
}

/// Where the entropy-coded data of a file begin.
std::size_t data_of(std::vector<std::byte> const& file) {
  for (std::size_t i = 0; i + 3 < file.size(); ++i)
    if (file[i] == std::byte{0xFF} && file[i + 1] == std::byte{0xDA})
      return i + 2 + (std::to_integer<std::size_t>(file[i + 2]) << 8 | std::to_integer<std::size_t>(file[i + 3]));
  FAIL("no scan");
  return 0;
}

/// A file of grey blocks whose coefficients k, row by row, are value(k) over the step of quality 50 that they are
/// multiplied with, so far as whole numbers go.
template <class Value>
std::vector<std::byte> with_coefficients(Value const& value) {
  jpeg_recipe r = layout(0);
  r.quality = 50;
  picture p{16, 24};
  auto const file = file_of(p, r);
  std::filesystem::path const name = "made.jpg";
  detail::jpeg_reader from{file, name, 1};
  detail::read_jpeg_header(from, file.size(), name, {});
  jvirt_barray_ptr* arrays = nullptr;
  from.run([&] { arrays = jpeg_read_coefficients(&from.info); });
  auto* const info = reinterpret_cast<j_common_ptr>(&from.info);
  for (JDIMENSION row = 0; row < 2; ++row) {
    JBLOCKARRAY const blocks = from.info.mem->access_virt_barray(info, arrays[0], row, 1, TRUE);
    for (int column = 0; column < 3; ++column)
      for (int k = 0; k < DCTSIZE2; ++k)
        blocks[0][column][k] = JCOEF(value(k) / from.info.quant_tbl_ptrs[0]->quantval[k]);
  }
  detail::jpeg_writer to{name};
  to.run([&] {
    jpeg_copy_critical_parameters(&from.info, &to.info);
    jpeg_write_coefficients(&to.info, arrays);
    jpeg_finish_compress(&to.info);
  });
  return to.take();
}

struct tally {
  int same = 0, damaged = 0, hosts = 0, wrong = 0;

  void add(std::vector<outcome> const& all) {
    for (outcome const o : all) {
      same += int(o == outcome::same), damaged += int(o == outcome::damaged), hosts += int(o == outcome::hosts);
      wrong += int(!agrees(o));
    }
  }
};

}  // namespace

TEST_CASE("jpeg_decoder: bits that flip in the data are told, or change the pixels as they do libjpeg's") {
  decoded_on_device device;
  std::mt19937 random{7};
  tally seen;
  for (int round = 0; round < 60; ++round) {
    auto const file = sound_file(round % 4, random);
    std::size_t const from = data_of(file);
    std::vector<wanted> all(10, {file});
    for (wanted& w : all)
      for (int flips = 1 + int(random() % 3); flips > 0; --flips)
        w.file[from + random() % (file.size() - from)] ^= std::byte(1u << random() % 8);
    seen.add(device(all));
  }
  CHECK(seen.wrong == 0);
  CHECK(seen.same > 20);
  CHECK(seen.damaged > 20);
  CHECK(seen.hosts > 20);
}

TEST_CASE(
    "jpeg_decoder: a flipped bit anywhere in a file, its tables included, is told or changes what it does to "
    "libjpeg's") {
  decoded_on_device device;
  std::mt19937 random{8};
  tally seen;
  for (int round = 0; round < 40; ++round) {
    auto const file = sound_file(round % 4, random);
    std::vector<wanted> all(10, {file});
    for (wanted& w : all) w.file[random() % data_of(file)] ^= std::byte(1u << random() % 8);
    all.erase(std::remove_if(all.begin(), all.end(),
                             [](wanted const& w) {  // sides of up to 65,535 take the emulation minutes
                               auto const p = prepare(w.file);
                               return p && std::int64_t{p->jpeg.height} * p->jpeg.width > 1 << 16;
                             }),
              all.end());
    seen.add(device(all));
  }
  CHECK(seen.wrong == 0);
  CHECK(seen.same > 20);
  CHECK(seen.hosts > 20);
}

TEST_CASE("jpeg_decoder: data that end early, with an end marker or without one, are never taken for whole") {
  decoded_on_device device;
  std::mt19937 random{9};
  for (int number = 0; number < 4; ++number) {
    auto const file = sound_file(number, random);
    std::size_t const from = data_of(file);
    std::vector<wanted> all;
    for (std::size_t size = from; size < file.size() - 2; size += 1 + (file.size() - from) / 60) {
      std::vector<std::byte> cut(file.begin(), file.begin() + std::ptrdiff_t(size));
      all.push_back({cut});
      cut.push_back(std::byte{0xFF});
      cut.push_back(std::byte{0xD9});
      all.push_back({cut});
    }
    for (outcome const o : device(all)) CHECK((o == outcome::damaged || o == outcome::hosts));
  }
}

TEST_CASE("jpeg_decoder: markers out of order, doubled, lost or filled up are the host's to judge") {
  decoded_on_device device;
  std::mt19937 random{10};
  jpeg_recipe r = layout(3);
  r.restart_interval = 2;
  auto const file = file_of(drawn(48, 48, 60, random), r);
  std::vector<std::size_t> marks;
  for (std::size_t i = data_of(file); i + 1 < file.size(); ++i)
    if (file[i] == std::byte{0xFF} && (file[i + 1] & std::byte{0xF8}) == std::byte{0xD0}) marks.push_back(i);
  REQUIRE(marks.size() == 4);
  auto const changed = [&](auto const& change) {
    auto copy = file;
    change(copy);
    return device.one(copy);
  };
  using bytes = std::vector<std::byte>;
  auto const at = [&](bytes& b, std::size_t i) { return b.begin() + std::ptrdiff_t(marks[i]); };
  CHECK(changed([](bytes&) {}) == outcome::same);
  CHECK(changed([&](bytes& b) { std::swap(b[marks[0] + 1], b[marks[1] + 1]); }) == outcome::hosts);
  CHECK(changed([&](bytes& b) { b.erase(at(b, 2), at(b, 2) + 2); }) == outcome::hosts);
  CHECK(changed([&](bytes& b) { b.insert(at(b, 2), 2, b[marks[2]]); }) == outcome::hosts);
  CHECK(changed([&](bytes& b) { b[marks[1] + 1] = std::byte{0xD9}; }) == outcome::hosts);
  CHECK(changed([&](bytes& b) { b[marks[1] + 1] = std::byte{0xC4}; }) == outcome::hosts);
}

TEST_CASE("jpeg_decoder: numbers that no picture has are the host's, at each stage of the transform") {
  decoded_on_device device;
  auto const outcome_of = [&](auto const& value) { return device.one(with_coefficients(value)); };
  CHECK(outcome_of([](int k) { return k == 0 ? 900 : k < 5 ? -150 : 0; }) == outcome::same);
  CHECK(outcome_of([](int k) { return k == 0 ? 16000 : 0; }) == outcome::damaged);  // a coefficient
  CHECK(outcome_of([](int k) { return k == 0 ? 4000 : 0; }) == outcome::damaged);   // between columns and rows
  CHECK(outcome_of([](int k) { return k < 8 ? 1500 : 0; }) == outcome::damaged);    // a sample
  CHECK(outcome_of([](int k) { return k < 8 ? -1500 : 0; }) == outcome::damaged);
}

TEST_CASE("jpeg_decoder: any bytes as data, long codes and the largest numbers included, keep to their place") {
  decoded_on_device device;
  std::mt19937 random{11};
  tally seen;
  for (int round = 0; round < 40; ++round) {
    auto const file = sound_file(round % 4, random);
    std::size_t const from = data_of(file);
    std::vector<wanted> all(6, {file});
    for (wanted& w : all)
      for (std::size_t i = from; i + 2 < w.file.size(); ++i) {
        std::byte const any = std::byte(random() % 256);
        bool const marker = w.file[i] == std::byte{0xFF} || w.file[i - 1] == std::byte{0xFF} || any == std::byte{0xFF};
        if (!marker) w.file[i] = any;
      }
    seen.add(device(all));
  }
  CHECK(seen.wrong == 0);
  CHECK(seen.damaged > 20);
}

#else  // libjpeg reads the headers: without it no file is a device's

#include <dm2/data/encoded_picture.hpp>

#include "data/golden_images.hpp"

#include <doctest/doctest.h>

TEST_CASE("jpeg_decoder, damage: without libjpeg a device is given no file") {
  auto const file = dm2::test::file_bytes(dm2::test::golden_image("gray.jpg"));
  CHECK_FALSE(dm2::encoded_picture{file, "gray.jpg"}.for_device());
}

#endif
