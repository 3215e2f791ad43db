/// @file
/// One head of one chunk in the scan's backward: the gradients of x, dt, A and D, and the head's part of C B^T's.
#pragma once

#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Sums over the tokens of a chunk, in shared memory.
struct chunk_sums {
  float later[backward_chunk];    ///< exp(sum_i) dy_i . (C_i h)
  float earlier[backward_chunk];  ///< dt_j exp(end - sum_j) x_j . (dh B_j)
  float x_u[backward_chunk];      ///< x_j . U_j
  float skip[backward_chunk];     ///< dy_j . x_j
  float through;                  ///< exp(end) <h, dh>
  float rectangle[4][backward_chunk];
  float reduced[8];
};

/// The block's sum of x over its threads, in thread 0.
__device__ inline float sum_over_block(float x, float (&parts)[8]) {
  x = sum_over_warp(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  if (threadIdx.x == 0)
    for (float v : parts) sum += v;
  __syncthreads();
  return sum;
}

/// square [64, 65] holds gamma; part q of to gets, at t, the sum of gamma_ij over i >= t > j of the rows
/// 16 q <= i < 16 q + 16. Overwrites square with the rows' running sums.
__device__ inline void rectangle_sums(float (&square)[backward_chunk][backward_chunk + 1],
                                      float (&to)[4][backward_chunk]) {
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  __syncthreads();
  for (int i = warp; i < backward_chunk; i += 8) {
    float const low = square[i][2 * lane], high = low + square[i][2 * lane + 1];
    float sum = high;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      float const lower = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += lower;
    }
    float const before = __shfl_up_sync(0xffffffffu, sum, 1);
    square[i][2 * lane] = lane == 0 ? low : before + low;
    square[i][2 * lane + 1] = sum;
  }
  __syncthreads();
  int const t = int(threadIdx.x) % backward_chunk, q = int(threadIdx.x) / backward_chunk;
  float sum = 0;
  for (int i = max(16 * q, t); i < 16 * q + 16; ++i)
    if (t > 0) sum += square[i][t - 1];
  to[q][t] = sum;
  __syncthreads();
}

/// W = dy x^T and G = C B^T: the head's part of G's gradient, E W dt, goes to `scores`; da's sums inside the chunk to
/// `to`; G E stays in square.
template <class P>
__device__ inline void score_chunk(chunk_operands<P> const& in, chunk_decays const& decays, block_stage& stage,
                                   float (&square)[backward_chunk][backward_chunk + 1], float (&to)[4][backward_chunk],
                                   float* scores) {
  block_tile w, g;
  block_product<true, true>(
      w, stage, P::sizes::headdim, [&](int i, int k) { return in.dy_at(i, k); },
      [&](int j, int k) { return in.x_at(j, k); });
  block_product<true, true>(
      g, stage, P::sizes::state, [&](int i, int k) { return in.c_at(i, k); },
      [&](int j, int k) { return in.b_at(j, k); });
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      int const i = block_tile::row() + r, j = block_tile::column() + c;
      float const e = j <= i ? decays.between(i, j) : 0.f;
      float const score = e * w.v[r][c] * decays.step[j];
      scores[i * backward_chunk + j] = score;
      square[i][j] = score * g.v[r][c];
      g.v[r][c] *= e;
    }
  rectangle_sums(square, to);
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) square[block_tile::row() + r][block_tile::column() + c] = g.v[r][c];
}

/// U, with all that reads it, and what the entering state gives: dx, and the sums later, earlier, x_u and skip.
/// `state` and `dstate` are null where nothing enters and nothing leaves.
template <class P>
__device__ inline void channels_of_chunk(chunk_operands<P> const& in, chunk_decays const& decays, block_stage& stage,
                                         float (&square)[backward_chunk][backward_chunk + 1], float const* state,
                                         float const* dstate, float skip, typename P::element* dx, int stride,
                                         chunk_sums& sums) {
  float later[4] = {}, earlier[4] = {}, x_u[4] = {}, dy_x[4] = {};
  for (int c0 = 0; c0 < P::sizes::headdim; c0 += block_side) {
    int const row = block_tile::row(), channel = c0 + block_tile::column();
    if (state != nullptr) {
      block_tile before;
      block_product<true, false>(
          before, stage, P::sizes::state, [&](int i, int n) { return in.c_at(i, n); },
          [&](int i, int n) { return state_at<P>(state, n, c0 + i); });
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          later[r] = fmaf(decays.out[row + r] * in.dy_at(row + r, channel + c), before.v[r][c], later[r]);
    }
    block_tile u;
    if (dstate != nullptr) {
      block_product<true, false>(
          u, stage, P::sizes::state, [&](int j, int n) { return in.b_at(j, n); },
          [&](int i, int n) { return state_at<P>(dstate, n, c0 + i); });
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          earlier[r] = fmaf(decays.in[row + r] * in.x_at(row + r, channel + c), u.v[r][c], earlier[r]);
          u.v[r][c] *= decays.left[row + r];
        }
    }
    block_product<false, false>(
        u, stage, backward_chunk, [&](int j, int i) { return square[i][j]; },
        [&](int c, int i) { return in.dy_at(i, c0 + c); });
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float const x = in.x_at(row + r, channel + c), dy = in.dy_at(row + r, channel + c);
        x_u[r] = fmaf(x, u.v[r][c], x_u[r]);
        dy_x[r] = fmaf(dy, x, dy_x[r]);
        if (row + r < in.tokens && channel + c < P::sizes::headdim)
          dx[std::size_t(row + r) * std::size_t(stride) + channel + c] =
              from_float<typename P::element>(fmaf(skip, dy, decays.step[row + r] * u.v[r][c]));
      }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float const a = sum_over_half_warp(later[r]), b = sum_over_half_warp(earlier[r]), c = sum_over_half_warp(x_u[r]),
                d = sum_over_half_warp(dy_x[r]);
    if (threadIdx.x % 16 != 0) continue;
    int const t = block_tile::row() + r;
    sums.later[t] = a, sums.earlier[t] = b, sums.x_u[t] = c, sums.skip[t] = d;
  }
}

/// Block (chunk and sequence, head).
template <class P>
__global__ void __launch_bounds__(block_threads, 2)
    chunk_head_kernel(P p, ssd_backward_chunks s, int first, int chunks) {
  __shared__ block_stage stage;
  __shared__ chunk_decays decays;
  __shared__ chunk_sums sums;
  __shared__ float square[backward_chunk][backward_chunk + 1];
  constexpr std::size_t size = std::size_t(P::sizes::state) * P::sizes::headdim;
  chunk_place const at{p, first, chunks};
  int const head = int(blockIdx.y), t = int(threadIdx.x);
  std::size_t const place = at.place + std::size_t(head), set = std::size_t(at.sequence / p.set_size) * P::sizes::heads;
  float const* const state = at.chunk > 0 ? s.states + place * size : nullptr;
  float const* const dstate = at.last() ? nullptr : s.dstates + place * size;
  decays.fill(p, at, head);
  chunk_operands<P> const in{p, at, head};
  score_chunk(in, decays, stage, square, sums.rectangle, s.scores + place * (backward_chunk * backward_chunk));
  channels_of_chunk(in, decays, stage, square, state, dstate, p.d[set + std::size_t(head)],
                    p.dx + at.row * std::size_t(p.dx_stride) + head * P::sizes::headdim, p.dx_stride, sums);
  float through = 0;
  if (state != nullptr && dstate != nullptr)
    for (std::size_t i = threadIdx.x; i < size; i += block_threads) through = fmaf(state[i], dstate[i], through);
  through = sum_over_block(through, sums.reduced) * decays.whole();
  if (t == 0) sums.through = through;
  __syncthreads();
  float da = 0;
  if (t < backward_chunk) {
    da = sums.through;
    for (auto const& part : sums.rectangle) da += part[t];
    float later = 0, earlier = 0;
    for (int i = backward_chunk - 1; i >= t; --i) later += sums.later[i];
    for (int j = 0; j < t; ++j) earlier += sums.earlier[j];
    da += later + earlier;
    if (t < at.tokens)
      p.ddt[(at.row + std::size_t(t)) * P::sizes::heads + head] = fmaf(p.a[set + head], da, sums.x_u[t]);
  }
  float const step = t < backward_chunk ? decays.step[t] : 0.f;
  float const da_sum = sum_over_block(step * da, sums.reduced);
  float const d_sum = sum_over_block(t < backward_chunk ? sums.skip[t] : 0.f, sums.reduced);
  if (t == 0) s.da[place] = da_sum, s.d[place] = d_sum;
}

}  // namespace dm2::cuda::detail
