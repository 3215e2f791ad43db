/// @file
/// One operation on each picture that has one.
///
/// Look-ups, blends, the blur, warps.
#pragma once

#include <dm2/cuda/augment/levels.cuh>
#include <dm2/cuda/augment/records.cuh>
#include <dm2/cuda/augment/warp.cuh>
#include <dm2/data/augment/enhance.hpp>
#include <dm2/data/augment/lookup.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The new level of v where it follows from the step alone.
[[nodiscard]] __device__ inline int level_by_step(picture_step const& step, int v) {
  using enum augment_operation;
  switch (step.operation) {
    case invert:
      return 255 - v;
    case posterize:
      return v & dm2::detail::kept_bits(step.level);
    case solarize:
      return dm2::detail::solarized(v, step.level);
    case solarize_add:
      return dm2::detail::solarized_by(v, step.level);
    default:
      return dm2::detail::blend(0, v, step.factor);  // brightness
  }
}

/// Pixel (y, x), blended with the mean of its neighbourhood; those at the edge of the picture of height x width stay.
__device__ inline void sharpen_pixel(pixel_view const& from, float factor, int height, int width, int y, int x,
                                     std::uint8_t* out) {
  std::uint8_t const* const self = from.at(y, x);
  bool const edge = y == 0 || x == 0 || y == height - 1 || x == width - 1;
  int sum[3] = {};
  for (int j = -1; j <= 1 && !edge; ++j)
    for (int i = -1; i <= 1; ++i) {
      std::uint8_t const* const v = from.at(y + j, x + i);
      for (int c = 0; c < 3; ++c) sum[c] += v[c];
    }
  for (int c = 0; c < 3; ++c) {
    int const blur = dm2::detail::blurred(sum[c] - self[c], self[c]);
    out[c] = edge ? self[c] : dm2::detail::blend(blur, self[c], factor);
  }
}

/// One pixel of a step's result. `tables`: of a step that counts levels.
__device__ inline void step_pixel(pixel_view const& from, picture_step const& step, level_tables const* tables,
                                  picture_task const& t, int y, int x, std::uint8_t* out) {
  using enum augment_operation;
  if (is_geometric(step.operation)) return warp_pixel(from, step, t.height, t.width, y, x, out);
  if (step.operation == sharpness) return sharpen_pixel(from, step.factor, t.height, t.width, y, x, out);
  std::uint8_t const* const self = from.at(y, x);
  if (step.operation == color) {
    int const grey = int(dm2::detail::luma(self));
    for (int c = 0; c < 3; ++c) out[c] = dm2::detail::blend(grey, self[c], step.factor);
  } else {
    for (int c = 0; c < 3; ++c)
      out[c] = tables != nullptr ? tables->level[c][self[c]] : std::uint8_t(level_by_step(step, self[c]));
  }
}

/// Step `number` of picture chosen[block.x]; block.y takes every gridDim.y-th stretch of 256 pixels. `tables`, one for
/// each of these, for steps that count levels; else null.
template <class Call>
__global__ void __launch_bounds__(256)
    apply_step_kernel(Call call, int const* chosen, int number, level_tables const* tables) {
  int const i = chosen[blockIdx.x];
  step_record const& record = call.steps[i * call.steps_each + number];
  picture_task const& t = call.pictures[i].task;
  pixel_box const box = record.step.out;
  pixel_view const from = input_of(call, i, number);
  unsigned const width = unsigned(box.width), pixels = unsigned(box.height) * width;
  std::uint8_t* const to = call.results + record.result;
  for (unsigned k = blockIdx.y * 256 + threadIdx.x; k < pixels; k += gridDim.y * 256) {
    int const y = box.top + int(k / width), x = box.left + int(k % width);
    step_pixel(from, record.step, tables == nullptr ? nullptr : tables + blockIdx.x, t, y, x, to + std::size_t{3} * k);
  }
}

}  // namespace dm2::cuda::detail
