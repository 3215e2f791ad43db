/// @file
/// A baseline JPEG's header as plain numbers, for a device.
/// Source: ITU-T T.81, annexes C and F.
#pragma once

#include <dm2/core/host_device.hpp>
#include <dm2/data/picture.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2 {

/// A Huffman table as the ranges of its codes.
struct jpeg_huffman {
  static constexpr int longest = 16;  ///< bits of a code, at most

  std::int32_t last[longest + 1];    ///< the largest code of each length, from 1; -1: there is none
  std::int32_t offset[longest + 1];  ///< what added to a code of that length gives its value's place
  std::uint8_t values[256];          ///< in the order of their codes
};

/// One component of a JPEG.
struct jpeg_component {
  int down = 1;                         ///< blocks of an MCU, one above the other
  int across = 1;                       ///< blocks of an MCU, side by side
  int dc = 0;                           ///< number of its table of constant terms
  int ac = 0;                           ///< number of its table of the others
  std::uint16_t quantisation[64] = {};  ///< row by row, not in the order of the file
};

/// A baseline JPEG of one scan, grey or YCbCr with whole chroma (4:4:4), half its columns (4:2:2) or half of both
/// (4:2:0), whose entropy-coded data are cut into `intervals` that can be decoded apart from each other.
struct jpeg_record {
  int height = 0;          ///< of the picture
  int width = 0;           ///< of the picture
  int components = 0;      ///< 1 or 3; the first of them is the one with most samples
  int interval = 0;        ///< MCUs between two restarts
  int intervals = 0;       ///< pieces of entropy-coded data
  jpeg_component part[3];  ///< the components
  jpeg_huffman dc[2];      ///< constant terms' tables by their numbers; one that no component names is not filled in
  jpeg_huffman ac[2];      ///< the same of the other coefficients

  /// MCUs side by side.
  [[nodiscard]] DM2_HOST_DEVICE int mcus_across() const noexcept { return (width - 1) / (8 * part[0].across) + 1; }
  /// Rows of MCUs.
  [[nodiscard]] DM2_HOST_DEVICE int mcus_down() const noexcept { return (height - 1) / (8 * part[0].down) + 1; }
  /// Rows of a component's samples that the picture's pixels follow from.
  [[nodiscard]] DM2_HOST_DEVICE int rows_of(int c) const noexcept {
    return (height * part[c].down - 1) / part[0].down + 1;
  }
  /// Columns of them.
  [[nodiscard]] DM2_HOST_DEVICE int columns_of(int c) const noexcept {
    return (width * part[c].across - 1) / part[0].across + 1;
  }
};
static_assert(std::is_trivially_copyable_v<jpeg_record>);

/// One interval's place in a picture's streams: pieces of 4-byte words, of which the first bytes count.
struct jpeg_interval {
  std::uint32_t first;  ///< word, counted from the picture's list of intervals
  std::uint32_t bytes;  ///< of data, without escapes and markers
};

/// The rows of a picture's MCUs that a part of its pixels needs.
struct jpeg_rows {
  int first;  ///< whose coefficients count
  int end;    ///< behind the last of them
  int read;   ///< behind the last row whose data are looked at: no fewer than libjpeg reads for the part

  /// Rows whose coefficients count.
  [[nodiscard]] DM2_HOST_DEVICE int count() const noexcept { return end - first; }
};

/// The MCUs' rows for the pixels of `box`. Smooth upsampling looks one row of chroma up and down.
[[nodiscard]] DM2_HOST_DEVICE inline jpeg_rows rows_needed(jpeg_record const& jpeg, pixel_box box) noexcept {
  int const each = 8 * jpeg.part[0].down, all = jpeg.mcus_down();
  int const beyond = jpeg.components == 3 && jpeg.part[0].down == 2 ? 2 : 0;
  int const top = detail::greatest(0, box.top - beyond), bottom = box.top + box.height - 1 + beyond;
  int const end = detail::least(all, bottom / each + 1);
  return {top / each, end, detail::least(all, end + 1)};
}

/// Samples, and so coefficients, of all components in rows.count() rows of MCUs.
[[nodiscard]] DM2_HOST_DEVICE inline std::size_t samples_of(jpeg_record const& jpeg, jpeg_rows rows) noexcept {
  int blocks = 0;  // of an MCU
  for (int c = 0; c < jpeg.components; ++c) blocks += jpeg.part[c].down * jpeg.part[c].across;
  return std::size_t{64} * std::size_t(blocks) * std::size_t(rows.count()) * std::size_t(jpeg.mcus_across());
}

}  // namespace dm2
