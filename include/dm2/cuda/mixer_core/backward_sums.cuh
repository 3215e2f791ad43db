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

/// A block takes 32 numbers of one parameter: warp w adds parts w, w + 32, ..., then a warp a number's 32 sums. Both
/// directions one after the other, since they may have the same gradient.
template <int Warps>
__global__ void __launch_bounds__(32 * Warps) add_gradient_sums_kernel(gradient_sums all) {
  __shared__ float sums[Warps][33];
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int which = 0, block = int(blockIdx.x);
  for (int left = (all.of[0].width + 31) / 32; block >= left; left = (all.of[which].width + 31) / 32)
    block -= left, ++which;
  gradient_sum const g = all.of[which];
  int const column = block * 32 + lane, own = block * 32 + warp;
  for (int d = 0; d < 2; ++d) {
    int const source = d == 1 && g.reversed ? g.width - 1 - column : column;
    float sum = 0;
    if (column < g.width) {
#pragma unroll 4
      for (int k = warp; k < g.count; k += 32)
        sum += g.parts[d][std::size_t(k) * std::size_t(g.stride) + std::size_t(source)];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    sum = sum_over_warp(sums[lane][warp]);
    if (lane == 0 && own < g.width) g.to[d][own] += g.log_rates[d] == nullptr ? sum : -expf(g.log_rates[d][own]) * sum;
    __syncthreads();
  }
}

}  // namespace dm2::cuda::detail::mixer_core
