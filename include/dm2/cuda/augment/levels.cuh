/// @file
/// Histograms of whole pictures, and the levels that follow.
///
/// For contrast, auto_contrast and equalize.
#pragma once

#include <dm2/cuda/augment/records.cuh>
#include <dm2/data/augment/enhance.hpp>
#include <dm2/data/augment/lookup.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// What has been counted of a picture's pixels.
struct level_counts {
  unsigned count[3][256];   ///< of each channel's levels
  unsigned long long luma;  ///< the sum of the pixels' lumas
};

/// The new level of each level of each channel.
struct level_tables {
  std::uint8_t level[3][256];
};

/// counts[block.x] += the histograms of what step `number` of picture chosen[block.x] reads: the whole picture.
template <class Call>
__global__ void __launch_bounds__(256)
    count_levels_kernel(Call call, int const* chosen, int number, level_counts* counts) {
  __shared__ unsigned count[3 * 256];
  __shared__ unsigned luma;
  int const i = chosen[blockIdx.x];
  for (int k = int(threadIdx.x); k < 3 * 256; k += 256) count[k] = 0;
  if (threadIdx.x == 0) luma = 0;
  __syncthreads();
  bool const means = call.steps[i * call.steps_each + number].step.operation == augment_operation::contrast;
  pixel_view const from = input_of(call, i, number);  // the order of its pixels does not matter
  unsigned const pixels = unsigned(from.box.height) * unsigned(from.box.width);
  unsigned sum = 0;
  for (unsigned k = blockIdx.y * 256 + threadIdx.x; k < pixels; k += gridDim.y * 256) {
    std::uint8_t const* const p = from.pixels + std::size_t{3} * k;
    if (means)
      sum += dm2::detail::luma(p);
    else
      for (int c = 0; c < 3; ++c) atomicAdd(&count[c * 256 + p[c]], 1u);
  }
  if (means) atomicAdd(&luma, sum);
  __syncthreads();
  level_counts& to = counts[blockIdx.x];
  if (means && threadIdx.x == 0) atomicAdd(&to.luma, static_cast<unsigned long long>(luma));
  for (int k = int(threadIdx.x); k < 3 * 256 && !means; k += 256)
    if (count[k] != 0) atomicAdd(&to.count[0][0] + k, count[k]);
}

/// The new level of v in a channel, from the counts of its levels.
[[nodiscard]] __device__ inline int level_by_counts(augment_operation operation, unsigned const* count, int v) {
  int low = 256, high = -1, levels = 0;
  unsigned total = 0, highest = 0, below = 0;
  for (int u = 0; u < 256; ++u) {
    unsigned const n = count[u];
    if (n == 0) continue;
    low = low < u ? low : u;
    high = u;
    highest = n;
    total += n;
    if (u < v) below += n;
    ++levels;
  }
  if (operation == augment_operation::auto_contrast) return high <= low ? v : dm2::detail::level_stretch{low, high}(v);
  unsigned const step = (total - highest) / 255;
  if (levels <= 1 || step == 0) return v;
  return int(dm2::detail::least((step / 2 + below) / step, 255u));
}

/// tables[block] from counts[block], of picture chosen[block]: a level a thread.
template <class Call>
__global__ void __launch_bounds__(256)
    make_tables_kernel(Call call, int const* chosen, int number, level_counts const* counts, level_tables* tables) {
  __shared__ unsigned count[3 * 256];
  int const i = chosen[blockIdx.x], v = int(threadIdx.x);
  level_counts const& from = counts[blockIdx.x];
  for (int c = 0; c < 3; ++c) count[c * 256 + v] = from.count[c][v];
  __syncthreads();
  picture_task const& t = call.pictures[i].task;
  picture_step const& step = call.steps[i * call.steps_each + number].step;
  level_tables& to = tables[blockIdx.x];
  if (step.operation == augment_operation::contrast) {
    int const mean = dm2::detail::mean_level(from.luma, std::uint64_t(t.height) * std::uint64_t(t.width));
    for (int c = 0; c < 3; ++c) to.level[c][v] = dm2::detail::blend(mean, v, step.factor);
  } else {
    for (int c = 0; c < 3; ++c) to.level[c][v] = std::uint8_t(level_by_counts(step.operation, count + c * 256, v));
  }
}

}  // namespace dm2::cuda::detail
