/// @file
/// Sums, greatest numbers and running sums over a warp.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cuda_runtime.h>

namespace dm2::cuda::detail {

/// The sum of the numbers of `Lanes` neighbouring lanes, in each of them, always in the same order.
template <int Lanes, class T>
__device__ inline T sum_over_lanes(T x) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}
__device__ inline float sum_over_warp(float x) { return sum_over_lanes<32>(x); }
__device__ inline float sum_over_half_warp(float x) { return sum_over_lanes<16>(x); }

/// The greatest of them, in each of them.
template <int Lanes>
__device__ inline float max_over_lanes(float x) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
  return x;
}
__device__ inline float max_over_warp(float x) { return max_over_lanes<32>(x); }
__device__ inline float max_over_half_warp(float x) { return max_over_lanes<16>(x); }

/// The sum of the numbers of this lane and those before it, among `Lanes` neighbouring lanes, of which it is `place`.
template <int Lanes = 32, class T>
__device__ inline T sum_up_to_lane(T x, int place) {
#pragma unroll
  for (int distance = 1; distance < Lanes; distance *= 2) {
    T const before = __shfl_up_sync(~0u, x, distance);
    if (place >= distance) x += before;
  }
  return x;
}

}  // namespace dm2::cuda::detail
