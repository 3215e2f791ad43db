/// @file
/// A batch's JPEGs as the kernels see them.
///
/// Headers, the parts that are asked for, and where each one's numbers go.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/data/decode/jpeg_record.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// A JPEG and its places in the decoder's memory.
struct decode_record {
  jpeg_record jpeg;
  pixel_box part;          ///< the pixels that are asked for
  jpeg_rows rows;          ///< of MCUs, that they need
  std::size_t streams;     ///< of its list of intervals, in words
  std::size_t samples[3];  ///< of each component's first coefficient, and of its first sample
  std::size_t pixels;      ///< of the part, in bytes

  /// Blocks of component c side by side.
  [[nodiscard]] DM2_HOST_DEVICE int blocks_across(int c) const { return jpeg.mcus_across() * jpeg.part[c].across; }
  /// Rows of its blocks that are kept.
  [[nodiscard]] DM2_HOST_DEVICE int blocks_down(int c) const { return rows.count() * jpeg.part[c].down; }
};

/// All that a batch's kernels read and write, on the device.
struct decode_call {
  decode_record const* pictures;
  std::uint32_t const* streams;  ///< entropy-coded data
  std::int16_t* coefficients;    ///< zero, before they are decoded; a block's 64 in the file's order
  std::uint8_t* samples;         ///< each component's rows, as wide as its blocks
  std::uint8_t* pixels;          ///< [part.height, part.width, 3] of each
  int* damaged;                  ///< zero, before; of each picture: the host has to judge it
  int count;                     ///< of the pictures
};

}  // namespace dm2::cuda::detail
