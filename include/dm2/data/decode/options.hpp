/// @file
/// Limits of decoders. A header is held against them before memory is taken.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace dm2 {

/// Limits of a decoder. The defaults suit files of unknown origin.
///
/// Beside max_pixels, a header is held against the file's own size: a picture that the file cannot hold is refused
/// before memory is taken. PNG: deflate expands at most 1032 : 1, so the filtered rows that the header announces may
/// not exceed 1032 bytes per byte of file. JPEG: each 8 x 8 block of each component takes at least one bit, and no
/// legal choice of sampling factors spreads nine blocks over more than 32 x 32 pixels, so 1024 pixels per byte of file
/// is more than any Huffman-coded file holds. An arithmetic-coded JPEG can exceed that only with constant colour.
/// Rows are stored as they are decoded, 16 at a time, so a truncated file takes memory for what it holds, not for what
/// it claims; interlaced PNG and progressive JPEG must be held whole.
struct decode_options {
  /// Refuse pictures of more pixels. The default is where Pillow raises DecompressionBombError, 2 * 89478485.
  std::uint64_t max_pixels = 2 * std::uint64_t{89'478'485};

  /// Refuse JPEG files of more scans. Each scan of a progressive file walks the whole picture, and a few bytes suffice
  /// to start one. Encoders write 10, the most eager optimizers some 60.
  int max_scans = 500;

  /// A JPEG whose entropy-coded data is damaged, but whose every row decodes to something, is refused unless this is
  /// set; Pillow returns such pictures with the lost blocks grey or shifted. Truncated files are refused either way.
  bool keep_damaged = false;
};

/// Pixels of a picture that is read for training or evaluation, unless a flag raises it: 33.5 million, a fifth of
/// decode_options's own. A progressive JPEG takes 9 bytes a pixel while it is decoded, so each reading thread is
/// bounded by 300 MiB.
inline constexpr std::uint64_t max_sample_pixels = std::uint64_t{1} << 25;
/// Scans of a JPEG that is read for training or evaluation.
inline constexpr int max_sample_scans = 64;

namespace detail {

/// Rows are decoded and stored this many at a time.
inline constexpr int decode_band = 16;

/// Throws file_error unless height x width lies within options.max_pixels and the sides fit an int.
inline void check_pixel_count(std::filesystem::path const& name, std::uint64_t height, std::uint64_t width,
                              decode_options const& options) {
  std::string const claim =
      "header announces " + std::to_string(height) + " x " + std::to_string(width) + " pixels (height x width)";
  if (height == 0 || width == 0) throw file_error{name, claim};
  if (height > 0x7fffffff || width > 0x7fffffff || height * width > options.max_pixels)
    throw file_error{name, claim + ", over the limit of " + std::to_string(options.max_pixels) + " pixels"};
}

/// Throws file_error if `announced` units of data cannot come out of a file of `bytes` at `per_byte` units a byte.
inline void check_plausible(std::filesystem::path const& name, std::uint64_t height, std::uint64_t width,
                            std::uint64_t announced, std::size_t bytes, std::uint64_t per_byte) {
  if (announced / per_byte > bytes)
    throw file_error{name, "header announces " + std::to_string(height) + " x " + std::to_string(width) +
                               " pixels (height x width), more than the file's " + std::to_string(bytes) +
                               " bytes can hold"};
}

/// check_plausible for JPEG: 1024 pixels per byte.
inline void check_jpeg_size(std::filesystem::path const& name, std::uint64_t height, std::uint64_t width,
                            std::size_t bytes, decode_options const& options) {
  check_pixel_count(name, height, width, options);
  check_plausible(name, height, width, height * width, bytes, 1024);
}

/// Bytes to reserve for rows before the first is decoded: everything for an ordinary photograph (6 to 12 bytes per
/// byte of file); vectors then grow by doubling.
[[nodiscard]] inline std::size_t first_reservation(std::size_t total, std::size_t file_bytes) {
  return total / 16 < file_bytes ? total : 16 * file_bytes;
}

}  // namespace detail
}  // namespace dm2
