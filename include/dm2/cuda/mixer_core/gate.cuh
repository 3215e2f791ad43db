/// @file
/// The mixer's gate and norm weights, rounded so that backward undoes both.
///
/// What a mixer leaves, g = y silu(z) r w with r the norm's factor, is all that its backward needs of y where silu(z)
/// and w are the same numbers in both passes and none of them is zero: y = g / (r silu(z) w). bfloat16 has float's
/// range, so that g keeps its eight bits however small silu(z) is; half does not.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// Whether a mixer's backward in T takes y from what its forward left.
template <class T>
inline constexpr bool gate_is_undone = std::is_same_v<T, __nv_bfloat16>;

/// Half of a gate, never zero: silu(2 h) = h tanh(h) + h.
__device__ inline float gate_half(float z) { return fmaf(z, 0.5f, 0x1p-60f); }

/// silu(z) as the gate's kernels compute it. Below -9 it may be 0.
__device__ inline float gate_silu(float z) {
  float const h = gate_half(z);
  return fmaf(h, tanh_fast(h), h);
}
/// x sigmoid(x) to two more units in the last place than silu(), without its division's branch: the composed
/// convolution has 744 instructions for 1,056, the gate 536 for 688. Below -87 it is 0.
__device__ inline float divided_silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }
/// gate_silu for a kernel of any T: to nearly float's rounding where nothing is undone.
template <class T>
__device__ inline float gate_silu_as(float z) {
  if constexpr (gate_is_undone<T>) return gate_silu(z);
  return divided_silu(z);
}

/// factor times a norm's weight, which is never zero where the gate is undone: an addition that most weights do not
/// notice, and that costs no instruction.
template <class T>
__device__ inline float weighted(float factor, float w) {
  if constexpr (gate_is_undone<T>) return fmaf(factor, w, factor * 0x1p-60f);
  return factor * w;
}

}  // namespace dm2::cuda::detail::mixer_core
