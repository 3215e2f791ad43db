/// @file
/// The states that enter the chunks of a scan, and the gradients that leave them.
#pragma once

#include <dm2/cuda/ssd/backward_chunk.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// What a chunk adds: to the state after it, sum_j dt_j exp(end - sum_j) B_j x_j^T; to the gradient of the state before
/// it, sum_i exp(sum_i) C_i dy_i^T. Block (chunk and sequence, head, which of both).
template <class P>
__global__ void __launch_bounds__(block_threads)
    chunk_states_kernel(P p, ssd_backward_chunks s, int first, int chunks) {
  __shared__ block_stage stage;
  __shared__ chunk_decays decays;
  chunk_place const at{p, first, chunks};
  int const head = int(blockIdx.y);
  bool const gradient = blockIdx.z == 1;
  if (gradient ? at.chunk == 0 : at.last()) return;  // nothing comes before the first, nothing after the last
  decays.fill(p, at, head);
  chunk_operands<P> const in{p, at, head};
  std::size_t const place = at.place + std::size_t(head);
  float* const to = (gradient ? s.dstates : s.states) + place * (std::size_t(P::sizes::state) * P::sizes::headdim);
  if (threadIdx.x == 0 && !gradient) s.decay[place] = decays.whole();
  for (int n0 = 0; n0 < P::sizes::state; n0 += block_side)
    for (int c0 = 0; c0 < P::sizes::headdim; c0 += block_side) {
      block_tile sum;
      if (gradient)
        block_product<false, false>(
            sum, stage, backward_chunk, [&](int i, int t) { return in.c_at(t, n0 + i); },
            [&](int i, int t) { return decays.out[t] * in.dy_at(t, c0 + i); });
      else
        block_product<false, false>(
            sum, stage, backward_chunk, [&](int i, int t) { return in.b_at(t, n0 + i); },
            [&](int i, int t) { return decays.in[t] * in.x_at(t, c0 + i); });
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          int const n = n0 + block_tile::row() + i, channel = c0 + block_tile::column() + j;
          if (n < P::sizes::state && channel < P::sizes::headdim)
            to[std::size_t(n) * P::sizes::headdim + channel] = sum.v[i][j];
        }
    }
}

/// From what the chunks add to what enters and what leaves each, in place. Thread: one number of one head's state.
/// Block (part of the state, head, sequence counted from the scratch's first).
template <class P>
__global__ void __launch_bounds__(128) pass_states_kernel(ssd_backward_chunks s, int chunks) {
  constexpr int size = P::sizes::state * P::sizes::headdim;
  int const i = int(blockIdx.x) * 128 + int(threadIdx.x);
  if (i >= size) return;
  std::size_t const place = std::size_t(blockIdx.z) * std::size_t(chunks) * P::sizes::heads + blockIdx.y;
  auto const slot = [&](int chunk) { return (place + std::size_t(chunk) * P::sizes::heads) * size + std::size_t(i); };
  auto const decay = [&](int chunk) { return s.decay[place + std::size_t(chunk) * P::sizes::heads]; };
  float state = 0;
#pragma unroll 4
  for (int k = 0; k + 1 < chunks; ++k) {
    float const added = s.states[slot(k)];
    s.states[slot(k)] = state;
    state = fmaf(decay(k), state, added);
  }
  s.states[slot(chunks - 1)] = state;
  float gradient = 0;
#pragma unroll 4
  for (int k = chunks - 1; k > 0; --k) {
    float const added = s.dstates[slot(k)];
    s.dstates[slot(k)] = gradient;
    gradient = k == chunks - 1 ? added : fmaf(decay(k), gradient, added);
  }
  s.dstates[slot(0)] = gradient;
}

}  // namespace dm2::cuda::detail
