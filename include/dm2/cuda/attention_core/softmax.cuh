/// @file
/// Attention's online softmax over keys and values in shared memory, 16 query rows a warp, all in registers.
#pragma once

#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cmath>
#include <cstdint>

namespace dm2::cuda::detail {

/// 16 query rows of a warp: lane l holds rows l / 4 and l / 4 + 8.
template <class Tr>
struct softmax_state {
  float out[Tr::head_dim / 8][4] = {};    ///< sum of exp2(score - top) v
  float top[2] = {-INFINITY, -INFINITY};  ///< what scores are taken relative to, times log2(e)
  float sum[2] = {0.f, 0.f};              ///< this lane's part of the sum of exp2(score - top)

  /// Makes `top` fit scores up to `highest`. A lower top than the highest score is as exact, as long as no weight
  /// overflows: output and sum are only rescaled where a score exceeds it by a factor of 2^8.
  __device__ void raise(float const (&highest)[2]) {
    if (!__any_sync(0xffffffffu, highest[0] > top[0] + 8.f || highest[1] > top[1] + 8.f)) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float const higher = fmaxf(top[r], highest[r]), factor = exp2_fast(top[r] - higher);
      top[r] = higher;
      sum[r] *= factor;
#pragma unroll
      for (int i = 0; i < Tr::head_dim / 8; ++i) {
        out[i][2 * r] *= factor;
        out[i][2 * r + 1] *= factor;
      }
    }
  }
};

/// Takes in 16 Groups keys; keys and values are the lane's addresses of the first of them. `left` keys are valid; only
/// a single group may have fewer than it covers.
template <class Tr, int Groups>
__device__ inline void attend(std::uint32_t const (&q)[Tr::head_dim / 16][4], softmax_state<Tr>& state,
                              std::uint32_t keys, std::uint32_t values, int left) {
  using T = typename Tr::element;
  constexpr std::uint32_t group = 16 * Tr::pitch * 2;
  constexpr int steps = Tr::head_dim / 16;
  float const scale = log2_e * rsqrtf(float(Tr::head_dim));
  float s[2 * Groups][4] = {};
#pragma unroll
  for (int k = 0; k < steps; ++k)
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      std::uint32_t b[4];
      load_matrix(b, keys + g * group + 32 * k);
      mma<T>(s[2 * g], q[k], b[0], b[1]);
      mma<T>(s[2 * g + 1], q[k], b[2], b[3]);
    }
  float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < 2 * Groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (Groups == 1 && 8 * n + int(threadIdx.x) % 4 * 2 + i % 2 >= left) s[n][i] = -INFINITY;
      highest[i / 2] = fmaxf(highest[i / 2], s[n][i]);
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 1));
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 2)) * scale;
  }
  state.raise(highest);
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    std::uint32_t weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const n = 2 * g + i / 2, r = i % 2;
      float const low = exp2_fast(fmaf(s[n][2 * r], scale, -state.top[r]));
      float const high = exp2_fast(fmaf(s[n][2 * r + 1], scale, -state.top[r]));
      state.sum[r] += low + high;
      weights[i] = pack<T>(low, high);
    }
#pragma unroll
    for (int c = 0; c < steps; ++c) {
      std::uint32_t b[4];
      load_matrix_transposed(b, values + g * group + 32 * c);
      mma<T>(state.out[2 * c], weights, b[0], b[1]);
      mma<T>(state.out[2 * c + 1], weights, b[2], b[3]);
    }
  }
}

}  // namespace dm2::cuda::detail
