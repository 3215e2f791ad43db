/// @file
/// Adds the mixer's partial sums of parameter gradients, in order.
#pragma once

#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>

namespace dm2::cuda::detail::mixer_core {

/// One parameter of both directions: to[d][i] += factor * the sum over k < count of parts[d][k stride + i].
struct gradient_sum {
  float const* parts[2];
  float* to[2];                    ///< one and the same for both, or two
  float const* log_rates[2] = {};  ///< the factor is -exp of these; 1 where null
  int count, stride, width;
  bool reversed = false;  ///< the second direction's parts are in reverse
};

/// The mixer's six.
struct gradient_sums {
  static constexpr int count = 6;
  gradient_sum of[count];

  [[nodiscard]] unsigned blocks() const {
    unsigned sum = 0;
    for (gradient_sum const& g : of) sum += blocks_for(std::size_t(g.width), 32);
    return sum;
  }
};

/// A block takes 32 numbers of one parameter: warp w adds parts w, w + 32, ..., of both directions at a time, then a
/// warp a number's 32 sums. The directions' sums are added one after the other: they may have the same gradient.
template <int Warps>
__global__ void __launch_bounds__(32 * Warps) add_gradient_sums_kernel(gradient_sums all) {
  __shared__ float sums[2][Warps][33];
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int which = 0, block = int(blockIdx.x);
  for (int left = (all.of[0].width + 31) / 32; block >= left; left = (all.of[which].width + 31) / 32)
    block -= left, ++which;
  gradient_sum const g = all.of[which];
  int const column = block * 32 + lane, own = block * 32 + warp;
  float sum[2] = {};
  if (column < g.width) {
    float const* const first = g.parts[0] + column;
    float const* const second = g.parts[1] + (g.reversed ? g.width - 1 - column : column);
#pragma unroll 4
    for (int k = warp; k < g.count; k += 32) {
      std::size_t const row = std::size_t(k) * std::size_t(g.stride);
      sum[0] += first[row], sum[1] += second[row];
    }
  }
  sums[0][warp][lane] = sum[0], sums[1][warp][lane] = sum[1];
  __syncthreads();
  for (int d = 0; d < 2; ++d) {
    float const total = sum_over_warp(sums[d][lane][warp]);
    if (lane == 0 && own < g.width)
      g.to[d][own] += g.log_rates[d] == nullptr ? total : -expf(g.log_rates[d][own]) * total;
  }
}

}  // namespace dm2::cuda::detail::mixer_core
