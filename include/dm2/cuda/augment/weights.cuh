/// @file
/// The weights of each picture's resize, in Pillow's fixed point.
#pragma once

#include <dm2/cuda/augment/records.cuh>
#include <dm2/data/resample_weights.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The weights of one output of an axis, which sum up to 1 before they are rounded.
__device__ inline tap_range make_weights(resize_axis const& a, int output, resize_filter filter, std::int32_t* out) {
  dm2::detail::weight_window const window{a.in, dm2::detail::axis_scale(a.in, a.out), a.first + output, filter};
  double sum = 0;
  for (int x = window.begin; x < window.end; ++x) sum += window(x);
  for (int x = window.begin; x < window.end; ++x) {
    double const v = window(x);
    out[x - window.begin] = dm2::detail::fixed_weight(sum != 0 ? v / sum : v);
  }
  return {window.begin, window.end - window.begin};
}

/// The weights of picture block.x: an output a thread, first the rows', then the columns'.
template <class Call>
__global__ void __launch_bounds__(128) resize_weights_kernel(Call call) {
  picture_record const& p = call.pictures[blockIdx.x];
  resize_axis const &down = p.task.down, &across = p.task.across;
  for (int k = int(blockIdx.y * 128 + threadIdx.x); k < down.count + across.count; k += int(gridDim.y) * 128) {
    bool const rows = k < down.count;
    int const output = rows ? k : k - down.count;
    std::size_t const at =
        rows ? std::size_t(output) * std::size_t(down.taps)
             : std::size_t(down.count) * std::size_t(down.taps) + std::size_t(output) * std::size_t(across.taps);
    call.windows[p.windows + std::size_t(k)] =
        make_weights(rows ? down : across, output, p.task.filter, call.weights + p.weights + at);
  }
}

}  // namespace dm2::cuda::detail
