/// @file
/// The golden pictures: files, and what Pillow and torchvision made of them.
#pragma once

#include <dm2/data/decode.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/safetensors.hpp>

#include "support/scratch_folder.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::test {

inline constexpr std::array<char const*, 12> golden_pictures{
    "photo.jpg",        "portrait.jpg", "progressive.jpg", "full_chroma.jpg", "gray.jpg",      "cmyk.jpg",
    "rotated_exif.jpg", "rgb.png",      "alpha.png",       "palette.png",     "one_pixel.png", "wide.png"};

inline std::filesystem::path golden_image(std::string const& name) {
  return std::filesystem::path{DM2_GOLDEN_DIR} / "images" / name;
}

inline std::vector<std::byte> file_bytes(std::filesystem::path const& path) {
  mapped_file const file{path};
  return {file.bytes().begin(), file.bytes().end()};
}

/// The tensor of that name in images.safetensors, as T.
template <class T>
std::vector<T> golden_tensor(std::string const& name, std::vector<std::int64_t>& shape) {
  static mapped_file const file{golden_image("images.safetensors")};
  static safetensors_content const content = read_safetensors(file.bytes(), file.path());
  for (stored_tensor const& t : content.tensors)
    if (t.name == name) {
      shape = t.shape;
      return to_vector<T>(t);
    }
  FAIL("images.safetensors has no tensor " << name);
  return {};
}

inline picture golden_picture(std::string const& name) {
  std::vector<std::int64_t> shape;
  picture p;
  p.pixels = golden_tensor<std::uint8_t>(name, shape);
  REQUIRE(shape.size() == 3);
  REQUIRE(shape[2] == 3);
  p.height = static_cast<int>(shape[0]);
  p.width = static_cast<int>(shape[1]);
  return p;
}

/// How far two pictures of the same size are apart, in levels.
struct distance {
  int largest = 0;
  double mean = 0;
};

inline distance difference(picture const& got, picture const& want) {
  REQUIRE(got.height == want.height);
  REQUIRE(got.width == want.width);
  REQUIRE(got.pixels.size() == want.pixels.size());
  distance d;
  for (std::size_t i = 0; i < want.pixels.size(); ++i) {
    int const one = std::abs(int{got.pixels[i]} - int{want.pixels[i]});
    d.largest = std::max(d.largest, one);
    d.mean += one;
  }
  d.mean /= static_cast<double>(want.pixels.size());
  return d;
}

/// A picture in which every row, column and channel differs, smooth enough to compress.
inline picture gradient(int height, int width) {
  picture p{height, width};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      std::uint8_t* const rgb = p.row(y) + 3 * x;
      rgb[0] = static_cast<std::uint8_t>((3 * x + y) % 256);
      rgb[1] = static_cast<std::uint8_t>(255 - (x + 2 * y) % 256);
      rgb[2] = static_cast<std::uint8_t>((x * y / 4 + 40) % 256);
    }
  return p;
}

inline void write_file(std::filesystem::path const& path, std::string_view text) {
  std::ofstream{path, std::ios::binary} << text;
}

}  // namespace dm2::test
