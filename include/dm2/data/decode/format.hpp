/// @file
/// Which format a file's content has, and the fixed header of PNG.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/options.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace dm2 {

/// The formats that decode_image knows.
enum class picture_format { unknown, jpeg, png };

/// The format by the first bytes, as Pillow tells them apart: FF D8 FF is JPEG, the eight-byte signature PNG.
[[nodiscard]] inline picture_format sniff_format(std::span<std::byte const> file) {
  constexpr std::array<std::uint8_t, 3> jpeg{0xff, 0xd8, 0xff};
  constexpr std::array<std::uint8_t, 8> png{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  auto const starts_with = [&](auto const& magic) {
    return file.size() >= magic.size() &&
           std::equal(magic.begin(), magic.end(), file.begin(),
                      [](std::uint8_t want, std::byte got) { return std::byte{want} == got; });
  };
  if (starts_with(jpeg)) return picture_format::jpeg;
  return starts_with(png) ? picture_format::png : picture_format::unknown;
}

namespace detail {

/// The fields of PNG's IHDR chunk that sizes follow from.
struct png_header {
  std::uint32_t height = 0, width = 0;
  unsigned depth = 0;   ///< bits a sample: 1, 2, 4, 8 or 16
  unsigned colour = 0;  ///< 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA

  /// Samples a pixel; 0 for a colour type that PNG does not have.
  [[nodiscard]] unsigned channels() const {
    constexpr std::array<unsigned, 7> table{1, 0, 3, 1, 2, 0, 4};
    return colour < table.size() ? table[colour] : 0;
  }
};

/// Reads IHDR, which a PNG file begins with, and holds it against the limits and the file's size.
///
/// Throws file_error if the header is cut off or not one of PNG's, if the picture is too large, or if its rows (a
/// filter byte and the packed samples each) could not come out of a file of this size. Nothing is allocated.
[[nodiscard]] inline png_header read_png_header(std::span<std::byte const> file, std::filesystem::path const& name,
                                                decode_options const& options) {
  constexpr std::size_t header_end = 8 + 8 + 13 + 4;  // signature, chunk length and type, IHDR, checksum
  if (file.size() < header_end) throw file_error{name, "PNG file is truncated inside its header"};
  auto const u32 = [&](std::size_t at) {
    std::uint32_t v = 0;
    for (std::size_t i = 0; i < 4; ++i) v = v << 8 | std::to_integer<std::uint32_t>(file[at + i]);
    return v;
  };
  if (u32(8) != 13 || u32(12) != 0x49484452) throw file_error{name, "PNG file does not begin with an IHDR chunk"};
  png_header const h{u32(20), u32(16), std::to_integer<unsigned>(file[24]), std::to_integer<unsigned>(file[25])};
  if (h.channels() == 0 || h.depth == 0 || h.depth > 16)
    throw file_error{name, "PNG header has bit depth " + std::to_string(h.depth) + " and colour type " +
                               std::to_string(h.colour) + ", which PNG does not define"};
  check_pixel_count(name, h.height, h.width, options);
  std::uint64_t const row = 1 + (std::uint64_t{h.width} * h.channels() * h.depth + 7) / 8;
  check_plausible(name, h.height, h.width, row * h.height, file.size(), 1032);
  return h;
}

}  // namespace detail
}  // namespace dm2
