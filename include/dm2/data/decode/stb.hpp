/// @file
/// JPEG and PNG through stb_image, for machines without libjpeg-turbo or libpng.
///
/// Only stb_image's declarations are used: link its implementation, from Debian's libstb or the target dm2_stb.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/format.hpp>
#include <dm2/data/decode/jpeg_markers.hpp>
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
#include <vector>

#if !__has_include(<stb_image.h>)
#error dm2 reads JPEG and PNG by libjpeg and libpng (libjpeg-dev, libpng-dev: -DDM2_WITH_JPEG -DDM2_WITH_PNG, \
-ljpeg -lpng), or by stb_image (libstb-dev: -isystem /usr/include/stb, -lstb), and was given neither
#include <dm2/the_compilation_ends_here>  // as in core/compiler.hpp
#endif
#include <stb_image.h>

namespace dm2 {
namespace detail {

struct stb_free {
  void operator()(void* p) const { stbi_image_free(p); }
};

/// Throws file_error unless the pixels of a PNG unpack to the bytes that its header announces, all of them from the
/// file: stb_image unpacks all that comes, 1032 bytes for one of the file, before it looks at how many it wants.
inline void check_png_unpacks(std::span<std::byte const> file, std::filesystem::path const& name, png_header const& h) {
  std::vector<std::byte> packed;
  for_each_png_chunk(file, name, [&](std::uint32_t type, std::span<std::byte const> content) {
    if (type == 0x49444154) packed.insert(packed.end(), content.begin(), content.end());  // IDAT
  });
  std::uint64_t const row = 1 + (std::uint64_t{h.width} * h.channels() * h.depth + 7) / 8;
  // an interlaced picture has seven parts, each with rows and columns of its own that end in a byte
  std::uint64_t const rows = h.interlaced ? (row + 14) * (std::uint64_t{h.height} + 7) : row * h.height;
  if (rows + 1 > std::uint64_t(std::numeric_limits<int>::max()))
    throw file_error{name, "PNG has rows of " + std::to_string(rows) + " bytes; stb_image reads up to 2 GiB"};
  // Twice, over different bytes: stb_image takes the two distances that Deflate reserves (RFC 1951, 3.2.5) for 0, and
  // copies what was in the buffer before. What differs then was never in the file.
  auto const unpack = [&](char before) {
    std::vector<char> unpacked(std::size_t(rows) + 1, before);
    int const got = stbi_zlib_decode_buffer(unpacked.data(), int(unpacked.size()),
                                            reinterpret_cast<char const*>(packed.data()), int(packed.size()));
    if (got < 0 || std::uint64_t(got) > rows)
      throw file_error{name, "PNG: the pixels are damaged, or are more than the header announces"};
    unpacked.resize(std::size_t(got));
    return unpacked;
  };
  if (unpack('\0') != unpack('\x7f'))
    throw file_error{name, "PNG: the pixels are damaged: they repeat from a distance that Deflate reserves"};
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
/// marker; damage inside its scans goes unnoticed. What stb_image would trust is walked first: a PNG's chunks and how
/// far its pixels unpack, a JPEG's markers and tables. A damaged progressive JPEG can still show what was in
/// stb_image's memory before, unless that is zeroed, as the target dm2_stb does. Prefer libjpeg-turbo and libpng for
/// files from strangers.
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
    detail::check_png_unpacks(file, name, header);
    if (header.depth == 16) return detail::load_stb_16(file, name, header);
  } else {
    detail::jpeg_markers{file, name, options}.check();
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
