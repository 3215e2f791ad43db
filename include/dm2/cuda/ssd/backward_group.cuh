/// @file
/// One group of one chunk in the scan's backward: the gradients of B and C, the sums over the group's heads.
#pragma once

#include <dm2/cuda/ssd/backward_chunk.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// dC = dG B + sum over heads of exp(sum_i) dy_i h^T, dB = dG^T C + sum over heads of dt_j exp(end - sum_j) x_j dh^T,
/// dG the sum of the heads' parts. Block (chunk and sequence, group and 64 of its states, dB or dC).
template <class P>
__global__ void __launch_bounds__(block_threads, 2)
    chunk_group_kernel(P p, ssd_backward_chunks s, int first, int chunks) {
  __shared__ block_stage stage;
  __shared__ chunk_decays decays;
  constexpr int per_group = P::sizes::per_group, tiles = (P::sizes::state + block_side - 1) / block_side;
  constexpr int square = backward_chunk * backward_chunk;
  constexpr std::size_t size = std::size_t(P::sizes::state) * P::sizes::headdim;
  chunk_place const at{p, first, chunks};
  int const group = int(blockIdx.y) / tiles, n0 = int(blockIdx.y) % tiles * block_side;
  bool const of_b = blockIdx.z == 0;
  std::size_t const place = at.place + std::size_t(group * per_group);
  chunk_operands<P> const all{p, at, group * per_group};
  block_tile sum;
  auto const score = [&](int i, int j) {
    float v = 0;
    for (int h = 0; h < per_group; ++h)
      v += s.scores[(place + std::size_t(h)) * square + std::size_t(i * backward_chunk + j)];
    return v;
  };
  if (of_b)
    block_product<false, false>(
        sum, stage, backward_chunk, [&](int j, int i) { return score(i, j); },
        [&](int n, int i) { return all.c_at(i, n0 + n); });
  else
    block_product<true, false>(
        sum, stage, backward_chunk, [&](int i, int j) { return score(i, j); },
        [&](int n, int j) { return all.b_at(j, n0 + n); });
  if (of_b ? !at.last() : at.chunk > 0)
    for (int h = 0; h < per_group; ++h) {
      int const head = group * per_group + h;
      decays.fill(p, at, head);
      chunk_operands<P> const in{p, at, head};
      float const* const state = (of_b ? s.dstates : s.states) + (place + std::size_t(h)) * size;
      auto const state_of = [&](int n, int k) { return state_at<P>(state, n0 + n, k); };
      if (of_b)
        block_product<true, true>(
            sum, stage, P::sizes::headdim, [&](int j, int k) { return decays.in[j] * in.x_at(j, k); }, state_of);
      else
        block_product<true, true>(
            sum, stage, P::sizes::headdim, [&](int i, int k) { return decays.out[i] * in.dy_at(i, k); }, state_of);
    }
  typename P::element* const to = of_b ? p.db : p.dc;
  int const stride = of_b ? p.db_stride : p.dc_stride;
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      int const t = block_tile::row() + r, n = n0 + block_tile::column() + c;
      if (t < at.tokens && n < P::sizes::state)
        to[(at.row + std::size_t(t)) * std::size_t(stride) + group * P::sizes::state + n] =
            from_float<typename P::element>(sum.v[r][c]);
    }
}

/// A sequence's sums for A and D from its chunks', da and d_skip [sequences, chunks, H], in order. Thread: one head of
/// one sequence.
template <class P>
__global__ void __launch_bounds__(128)
    chunk_sums_kernel(P p, float const* da, float const* d_skip, int first, int count, int chunks) {
  int const i = int(blockIdx.x) * 128 + int(threadIdx.x), head = i % P::sizes::heads, sequence = i / P::sizes::heads;
  if (sequence >= count) return;
  float a = 0, d = 0;
  for (int k = 0; k < chunks; ++k) {
    std::size_t const place = (std::size_t(sequence) * std::size_t(chunks) + std::size_t(k)) * P::sizes::heads + head;
    a += da[place], d += d_skip[place];
  }
  p.da[std::size_t(first + sequence) * P::sizes::heads + head] = a;
  p.d_skip[std::size_t(first + sequence) * P::sizes::heads + head] = d;
}

}  // namespace dm2::cuda::detail
