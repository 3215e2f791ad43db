/// @file
/// Picture files to RGB, by content: libjpeg-turbo and libpng where the build has them, stb_image otherwise.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/format.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/io/describe_file.hpp>
#include <dm2/io/mapped_file.hpp>

#ifdef DM2_WITH_JPEG
#include <dm2/data/decode/jpeg.hpp>
#endif
#ifdef DM2_WITH_PNG
#include <dm2/data/decode/png.hpp>
#endif
#if !defined(DM2_WITH_JPEG) || !defined(DM2_WITH_PNG)
#include <dm2/data/decode/stb.hpp>
#endif

#include <cstddef>
#include <filesystem>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

namespace dm2 {
namespace detail {

/// Picture files up to this size are read, not mapped: one that another program rewrites meanwhile is a bad picture,
/// and not the end of the program.
inline constexpr std::size_t most_picture_bytes = std::size_t{1} << 30;

/// The message for a file of no known format.
[[nodiscard]] inline std::string describe_unknown(std::span<std::byte const> file) {
  return file.empty() ? "is empty" : "is neither a JPEG nor a PNG picture" + described(file);
}

/// decode_image, but for std::bad_alloc, which leaves it as it is.
[[nodiscard]] inline picture decode_known(std::span<std::byte const> file, std::filesystem::path const& name,
                                          decode_options const& options) {
  switch (sniff_format(file)) {
    case picture_format::jpeg:
#ifdef DM2_WITH_JPEG
      return decode_jpeg(file, name, options);
#else
      return decode_stb(file, name, options);
#endif
    case picture_format::png:
#ifdef DM2_WITH_PNG
      return decode_png(file, name, options);
#else
      return decode_stb(file, name, options);
#endif
    case picture_format::unknown:
      break;
  }
  throw file_error{name, describe_unknown(file)};
}

}  // namespace detail

/// Decodes a JPEG or PNG in memory; messages call it `name`.
///
/// With libjpeg-turbo and libpng the bytes are those of Pillow's Image.open(...).convert("RGB"); see decode_jpeg,
/// decode_png and decode_stb for what each accepts.
///
/// Throws  file_error naming `name` and the reason, if the content is neither, is damaged or truncated, is larger than
///         `options` allow, or than memory does. Sizes are checked before memory is taken.
[[nodiscard]] inline picture decode_image(std::span<std::byte const> file, std::filesystem::path const& name,
                                          decode_options const& options = {}) {
  try {
    return detail::decode_known(file, name, options);
  } catch (std::bad_alloc const&) {
    throw file_error{name, "memory ran out" + detail::announced_size(file)};
  } catch (std::length_error const&) {
    throw file_error{name, "memory ran out" + detail::announced_size(file)};
  }
}

/// Reads a picture file. Its format follows from its content, not from its name.
///
/// Throws  file_error as decode_image does, and if the file cannot be read.
[[nodiscard]] inline picture read_image(std::filesystem::path const& path, decode_options const& options = {}) {
  mapped_file const file{path, detail::most_picture_bytes};
  return decode_image(file.bytes(), path, options);
}

}  // namespace dm2
