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
  unsigned depth = 0;       ///< bits a sample: 1, 2, 4, 8 or 16
  unsigned colour = 0;      ///< 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA
  bool interlaced = false;  ///< stored in seven parts (Adam7)

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
  png_header h{u32(20), u32(16), std::to_integer<unsigned>(file[24])};
  h.colour = std::to_integer<unsigned>(file[25]);
  h.interlaced = std::to_integer<unsigned>(file[28]) != 0;
  if (h.channels() == 0 || h.depth == 0 || h.depth > 16)
    throw file_error{name, "PNG header has bit depth " + std::to_string(h.depth) + " and colour type " +
                               std::to_string(h.colour) + ", which PNG does not define"};
  check_pixel_count(name, h.height, h.width, options);
  std::uint64_t const row = 1 + (std::uint64_t{h.width} * h.channels() * h.depth + 7) / 8;
  check_plausible(name, h.height, h.width, row * h.height, file.size(), 1032);
  return h;
}

/// Calls use(type, content) for each chunk of a PNG up to the end chunk, type as a big-endian number.
///
/// Throws file_error unless every chunk lies in the file, and the last one is the end chunk. Checksums are not
/// compared.
template <class Use>
void for_each_png_chunk(std::span<std::byte const> file, std::filesystem::path const& name, Use const& use) {
  auto const u32 = [&](std::size_t at) {
    std::uint32_t v = 0;
    for (std::size_t i = 0; i < 4; ++i) v = v << 8 | std::to_integer<std::uint32_t>(file[at + i]);
    return v;
  };
  constexpr std::size_t around = 12;  // length, type and checksum
  for (std::size_t at = 8; file.size() - at >= around;) {
    std::size_t const length = u32(at);
    if (length > file.size() - at - around) break;
    use(u32(at + 4), file.subspan(at + 8, length));
    if (u32(at + 4) == 0x49454e44) return;  // IEND
    if (u32(at + 4) == 0x43674249) throw file_error{name, "PNG: has a chunk CgBI, which makes it another format"};
    at += around + length;
  }
  throw file_error{name, "PNG file is truncated: a chunk passes its end"};
}

/// " (10000 x 10000 pixels)": height and width by a PNG's header or a JPEG's frame; empty where they are not there.
[[nodiscard]] inline std::string announced_size(std::span<std::byte const> file) {
  auto const number = [&](std::size_t at, std::size_t bytes) {
    std::uint32_t v = 0;
    for (std::size_t i = 0; i < bytes; ++i) v = v << 8 | std::to_integer<std::uint32_t>(file[at + i]);
    return v;
  };
  auto const text = [](std::uint32_t height, std::uint32_t width) {
    return " (" + std::to_string(height) + " x " + std::to_string(width) + " pixels)";
  };
  if (sniff_format(file) == picture_format::png && file.size() >= 24) return text(number(20, 4), number(16, 4));
  if (sniff_format(file) != picture_format::jpeg) return {};
  for (std::size_t at = 2; at + 9 <= file.size();) {  // from marker to marker: FF, its code, its length
    std::uint32_t const code = number(at + 1, 1);
    if (number(at, 1) != 0xFF || code == 0xDA) return {};
    bool const frame = code >= 0xC0 && code <= 0xCF && code != 0xC4 && code != 0xC8 && code != 0xCC;
    if (frame) return text(number(at + 5, 2), number(at + 7, 2));
    at += code == 0xFF ? 1 : 2 + std::size_t{number(at + 2, 2)};
  }
  return {};
}

}  // namespace detail
}  // namespace dm2
