/// @file
/// The resize of each picture's box, and the finished pictures.
///
/// Columns first, then rows with all that follows.
#pragma once

#include <dm2/core/random.hpp>
#include <dm2/cuda/augment/records.cuh>
#include <dm2/data/resize.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The rows that picture block.x's outputs are made of, their columns resampled and rounded to bytes.
template <class Call>
__global__ void __launch_bounds__(256) resize_columns_kernel(Call call) {
  int const i = int(blockIdx.x);
  picture_record const& p = call.pictures[i];
  resize_axis const &down = p.task.down, &across = p.task.across;
  pixel_view const from = input_of(call, i, p.task.steps);
  tap_range const* const windows = call.windows + p.windows + down.count;
  std::int32_t const* const weights = call.weights + p.weights + std::size_t(down.count) * std::size_t(down.taps);
  unsigned const columns = unsigned(across.count), pixels = unsigned(down.reads) * columns;
  for (unsigned k = blockIdx.y * 256 + threadIdx.x; k < pixels; k += gridDim.y * 256) {
    unsigned const row = k / columns, column = k % columns;
    tap_range const taps = windows[column];
    std::int32_t const* const w = weights + std::size_t(column) * std::size_t(across.taps);
    std::uint8_t const* v = from.at(p.task.box.top + down.read + int(row), p.task.box.left + taps.first);
    int const step = from.flip ? -3 : 3;
    std::uint32_t sum[3] = {dm2::detail::half_weight, dm2::detail::half_weight, dm2::detail::half_weight};
    for (int t = 0; t < taps.count; ++t, v += step)
      for (int c = 0; c < 3; ++c) sum[c] += std::uint32_t(w[t]) * v[c];
    std::uint8_t* const to = call.narrow + p.narrow + std::size_t{3} * k;
    for (int c = 0; c < 3; ++c) to[c] = dm2::detail::to_byte(sum[c]);
  }
}

/// Where a batch's finished pictures go.
struct finished_floats {
  float* out;  ///< [pictures, 3, height, width], normalised, erased

  __device__ void operator()(augment_call const& call, int i, int y, int x, std::uint8_t const* rgb) const {
    picture_task const& t = call.pictures[i].task;
    pixel_box const e = t.erased;
    bool const erased = y >= e.top && y < e.top + e.height && x >= e.left && x < e.left + e.width;
    std::size_t const plane = std::size_t(call.height) * std::size_t(call.width);
    float* const to = out + (std::size_t(i) * 3 * plane + std::size_t(y) * std::size_t(call.width) + std::size_t(x));
    for (int c = 0; c < 3; ++c) {
      std::uint64_t const number =
          (std::uint64_t(c) * std::uint64_t(e.height) + std::uint64_t(y - e.top)) * std::uint64_t(e.width) +
          std::uint64_t(x - e.left);
      to[std::size_t(c) * plane] =
          erased ? float(t.noise[number])
                 : __fdiv_rn(__fsub_rn(__fdiv_rn(float(rgb[c]), 255.0f), t.mean[c]), t.deviation[c]);
    }
  }
};
/// @copydoc finished_floats
struct finished_bytes {
  std::uint8_t* out;  ///< [pictures, height, width, 3]

  __device__ void operator()(augment_call const& call, int i, int y, int x, std::uint8_t const* rgb) const {
    std::size_t const pixel =
        (std::size_t(i) * std::size_t(call.height) + std::size_t(y)) * std::size_t(call.width) + std::size_t(x);
    for (int c = 0; c < 3; ++c) out[3 * pixel + std::size_t(c)] = rgb[c];
  }
};

/// The finished pictures: rows resampled, black where an evaluation's picture is smaller than its crop.
template <class Call, class Finished>
__global__ void __launch_bounds__(256) finish_pictures_kernel(Call call, Finished finished) {
  int const i = int(blockIdx.x);
  picture_record const& p = call.pictures[i];
  resize_axis const &down = p.task.down, &across = p.task.across;
  unsigned const width = unsigned(call.width), pixels = unsigned(call.height) * width;
  for (unsigned k = blockIdx.y * 256 + threadIdx.x; k < pixels; k += gridDim.y * 256) {
    int const y = int(k / width), x = int(k % width), row = y - down.before, column = x - across.before;
    std::uint8_t rgb[3] = {};
    if (row >= 0 && row < down.count && column >= 0 && column < across.count) {
      tap_range const taps = call.windows[p.windows + std::size_t(row)];
      std::int32_t const* const w = call.weights + p.weights + std::size_t(row) * std::size_t(down.taps);
      std::size_t const stride = std::size_t{3} * std::size_t(across.count);
      std::uint8_t const* v =
          call.narrow + p.narrow + std::size_t(taps.first - down.read) * stride + std::size_t{3} * std::size_t(column);
      std::uint32_t sum[3] = {dm2::detail::half_weight, dm2::detail::half_weight, dm2::detail::half_weight};
      for (int t = 0; t < taps.count; ++t, v += stride)
        for (int c = 0; c < 3; ++c) sum[c] += std::uint32_t(w[t]) * v[c];
      for (int c = 0; c < 3; ++c) rgb[c] = dm2::detail::to_byte(sum[c]);
    }
    finished(call, i, y, x, rgb);
  }
}

}  // namespace dm2::cuda::detail
