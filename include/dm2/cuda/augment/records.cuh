/// @file
/// A batch's raw pictures as the kernels see them.
///
/// Pixels, steps, and where each one's results go.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/data/augment/picture_task.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// A raw picture and its places in the augmenter's memory.
struct picture_record {
  picture_task task;
  std::size_t narrow;   ///< of its columns' resampling, in bytes
  std::size_t windows;  ///< of its outputs' source pixels: rows, then columns
  std::size_t weights;  ///< of their weights: rows' [down.count, down.taps], then columns'
};

/// An operation, and where its result is.
struct step_record {
  picture_step step;
  std::size_t result;  ///< in bytes
};

/// The source pixels that an output is made of.
struct tap_range {
  int first, count;
};

/// All that a batch's kernels read and write, on the device.
struct augment_call {
  picture_record const* pictures;
  step_record const* steps;  ///< [pictures, steps_each]
  int steps_each;
  std::uint8_t const* raw;      ///< the pictures' parts
  std::uint8_t const* decoded;  ///< those that the device has decoded
  std::uint8_t* results;        ///< of steps
  std::uint8_t* narrow;         ///< columns resampled, rows not
  tap_range* windows;
  std::int32_t* weights;
  int height, width;  ///< of the finished pictures
};

/// The pixels of a rectangle of a picture; places are those in the flipped picture.
struct pixel_view {
  std::uint8_t const* pixels;  ///< [box.height, box.width, 3]
  pixel_box box;
  bool flip;  ///< whether they are those of the picture before it is flipped

  /// The pixel at (y, x), which is in the rectangle.
  [[nodiscard]] __device__ std::uint8_t const* at(int y, int x) const {
    int const column = flip ? box.width - 1 - (x - box.left) : x - box.left;
    return pixels + 3 * (std::size_t(y - box.top) * std::size_t(box.width) + std::size_t(column));
  }
};

/// What step `number` of picture i reads; behind its last step, what is resized.
[[nodiscard]] __device__ inline pixel_view input_of(augment_call const& call, int i, int number) {
  picture_task const& t = call.pictures[i].task;
  if (number > 0) {
    step_record const& before = call.steps[i * call.steps_each + number - 1];
    return {call.results + before.result, before.step.out, false};
  }
  pixel_box box = t.part;
  if (t.flip) box.left = t.width - t.part.left - t.part.width;
  return {(t.on_device ? call.decoded : call.raw) + t.offset, box, t.flip};
}

}  // namespace dm2::cuda::detail
