/// @file
/// The mixer core's decays, as both of its forms need them.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>

namespace dm2::cuda::detail {

/// One warp: the decays of a head over `tokens` tokens from `start` on. cum[t] = log2 of the decay from there to t, t
/// counted from there; behind them ev[t] = cum[t] - log2(dt_t), so that exp2(cum[i] - ev[j]) = dt_j exp(c_i - c_j). From
/// `length` on dt is 0.
///
/// Shapes   raw: the projection's dt of the sequence's first row and this head; rate = A log2(e); cum [2, tokens], at most
///          16 most_tiles tokens, in global or shared memory.
/// Writes   cum (=); a barrier must follow before others read.
template <class Tr>
__device__ inline void head_decays(typename Tr::element const* raw, direction_slices<Tr> const& at, float rate,
                                   float bias, int start, int length, int tokens, float* cum) {
  constexpr int rounds = (Tr::most_tiles * 16 + 31) / 32;
  int const lane = int(threadIdx.x) % 32;
  float step[rounds], sum[rounds];
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    int const t = start + r * 32 + lane;
    step[r] = t < length ? to_float(raw[at.row(t, length) * Tr::projected]) : 0.f;
  }
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    step[r] = start + r * 32 + lane < length ? softplus(step[r] + bias) : 0.f;
    sum[r] = step[r] * rate;
  }
#pragma unroll
  for (int o = 1; o < 32; o <<= 1)
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      float const other = __shfl_up_sync(~0u, sum[r], o);
      if (lane >= o) sum[r] += other;
    }
  float before = 0;
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    int const t = r * 32 + lane;
    float const whole = before + sum[r];
    before += __shfl_sync(~0u, sum[r], 31);
    if (t < tokens) cum[t] = whole, cum[tokens + t] = whole - log2f(step[r]);
  }
}

}  // namespace dm2::cuda::detail
