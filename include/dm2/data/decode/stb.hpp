/// @file
/// JPEG and PNG through stb_image, for machines without libjpeg-turbo or libpng.
///
/// Only stb_image's declarations are used: link its implementation, from Debian's libstb or the target dm2_stb.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/format.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>

#include <stb_image.h>

namespace dm2 {
namespace detail {

struct stb_free {
  void operator()(void* p) const { stbi_image_free(p); }
};

/// Whether a DHT segment's tables each announce at most 256 codes, what stb_image has room for: version 2.27 writes
/// what comes beyond that past the end of its tables.
[[nodiscard]] inline bool huffman_tables_fit(std::span<std::byte const> segment) {
  while (segment.size() >= 17) {
    std::size_t codes = 0;
    for (std::byte const count : segment.subspan(1, 16)) codes += std::to_integer<std::size_t>(count);
    if (codes > 256 || segment.size() - 17 < codes) return false;
    segment = segment.subspan(17 + codes);
  }
  return segment.empty();
}

/// Walks a JPEG's markers: throws file_error unless they lead from the start through a scan to the end marker, and
/// Huffman tables are sound. Where data run out stb_image decodes zeros, and versions differ in whether it says so.
inline void check_jpeg_markers(std::span<std::byte const> file, std::filesystem::path const& name) {
  auto const byte = [&](std::size_t at) { return std::to_integer<unsigned>(file[at]); };
  bool scanned = false;
  for (std::size_t at = 2; at + 1 < file.size();) {
    unsigned const marker = byte(at + 1);
    if (byte(at) != 0xff || marker == 0xff) {  // entropy-coded data, or a fill byte
      ++at;
    } else if (marker == 0 || (marker >= 0xd0 && marker <= 0xd7)) {  // an escaped FF, or a restart
      at += 2;
    } else if (marker == 0xd9) {
      if (!scanned) throw file_error{name, "JPEG file has no picture in it"};
      return;
    } else {
      std::size_t const length = at + 3 < file.size() ? byte(at + 2) << 8 | byte(at + 3) : 0;
      if (length < 2 || length > file.size() - at - 2) break;
      if (marker == 0xc4 && !huffman_tables_fit(file.subspan(at + 4, length - 2)))
        throw file_error{name, "JPEG: a Huffman table is not valid"};
      scanned = scanned || marker == 0xda;
      at += 2 + length;
    }
  }
  throw file_error{name, "JPEG file is truncated: it has no end marker"};
}

[[noreturn]] inline void throw_stb(std::filesystem::path const& name) {
  char const* const why = stbi_failure_reason();
  throw file_error{name, std::string{"stb_image: "} + (why == nullptr ? "no reason given" : why)};
}

/// A 16-bit PNG, reduced as decode_png does.
inline picture load_stb_16(std::span<std::byte const> file, std::filesystem::path const& name,
                           png_header const& header) {
  int width = 0, height = 0, channels = 0;
  std::unique_ptr<stbi_us, stb_free> const samples{stbi_load_16_from_memory(
      reinterpret_cast<stbi_uc const*>(file.data()), static_cast<int>(file.size()), &width, &height, &channels, 3)};
  if (samples == nullptr) throw_stb(name);
  picture out{height, width};
  bool const clamp = header.colour == 0;
  std::transform(samples.get(), samples.get() + out.pixels.size(), out.pixels.begin(),
                 [=](stbi_us v) { return static_cast<std::uint8_t>(clamp ? std::min<unsigned>(v, 255) : v >> 8); });
  return out;
}

}  // namespace detail

/// Decodes a JPEG or PNG by stb_image.
///
/// PNG is equal to decode_png's. JPEG differs from libjpeg-turbo's by rounding in the DCT, the chroma upsampling and
/// the colour conversion: up to 3 levels on average 0.5 on photographs, and more at the edges of sharp chroma. Four
/// components without Adobe's marker are not taken as CMYK. Checksums are not held, and a JPEG must have its end
/// marker; damage inside its scans goes unnoticed. Prefer libjpeg-turbo and libpng for files from strangers.
///
/// Throws  file_error naming `name` and the reason, as decode_jpeg and decode_png do; also for files over 2 GiB.
[[nodiscard]] inline picture decode_stb(std::span<std::byte const> file, std::filesystem::path const& name,
                                        decode_options const& options = {}) {
  picture_format const format = sniff_format(file);
  if (format == picture_format::unknown) throw file_error{name, "is neither a JPEG nor a PNG file"};
  if (file.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
    throw file_error{name, "is " + std::to_string(file.size()) + " bytes long; stb_image reads up to 2 GiB"};
  auto const* const bytes = reinterpret_cast<stbi_uc const*>(file.data());
  int const size = static_cast<int>(file.size());
  int width = 0, height = 0, channels = 0;
  if (format == picture_format::png) {
    detail::png_header const header = detail::read_png_header(file, name, options);
    if (header.depth == 16) return detail::load_stb_16(file, name, header);
  } else {
    detail::check_jpeg_markers(file, name);
    if (stbi_info_from_memory(bytes, size, &width, &height, &channels) == 0) detail::throw_stb(name);
    detail::check_jpeg_size(name, static_cast<std::uint64_t>(height), static_cast<std::uint64_t>(width), file.size(),
                            options);
  }
  std::unique_ptr<stbi_uc, detail::stb_free> const rgb{
      stbi_load_from_memory(bytes, size, &width, &height, &channels, 3)};
  if (rgb == nullptr) detail::throw_stb(name);
  picture out;
  out.height = height;
  out.width = width;
  out.pixels.assign(rgb.get(), rgb.get() + out.stride() * static_cast<std::size_t>(height));
  return out;
}

}  // namespace dm2
