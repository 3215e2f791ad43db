/// @file
/// The scan's backward in float, in chunks of 64 tokens.
///
/// Any shape, any length, any precision.
///
/// With G = C B^T, E_ij = exp(c_i - c_j) (i >= j in the chunk, c the sum of dt A from the chunk's start),
/// W_ij = dy_i . x_j, and the state h that enters and the gradient dh that leaves a chunk whose decays sum to e:
///     U_j  = sum_{i >= j} G_ij E_ij dy_i + exp(e - c_j) dh B_j               dx_j = dt_j U_j + D dy_j,  dD = sum dy .
///     x dG   = sum over heads of E W dt_j                                      dC += dG B,  dB += dG^T C
///     dC_i += exp(c_i) h dy_i,  dB_j += dt_j exp(e - c_j) dh x_j             dh <- exp(e) dh + sum_i exp(c_i) C_i
///     dy_i^T da_t = sum_{i >= t > j} G_ij E_ij W_ij dt_j + sum_{i >= t} exp(c_i) dy_i . (C_i h)
///            + sum_{j < t} dt_j exp(e - c_j) x_j . (dh B_j) + exp(e) <h, dh>
///     d dt = x . U + A da,  dA = sum dt da
/// Every exponent is at most 0. The sums for da are over rectangles, without cancellation: row sums minus column sums
/// would lose the digits that 16-bit operands have (12 % of dA, against 0.07 %).
///
/// All chunks of all heads run at once; only the states pass from chunk to chunk. Four kernels, and one more for the
/// states of sequences of more than one chunk.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// What a chunk adds: to the state after it, sum_j dt_j exp(end - sum_j) B_j x_j^T; to the gradient of the state before
/// it, sum_i exp(sum_i) C_i dy_i^T. Block (chunk and sequence, head, which of both).
template <class P>
__global__ void __launch_bounds__(block_threads) chunk_states_kernel(P p, backward_chunks s, int first, int chunks) {
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
      sum.each([&](int i, int j, float v) {
        int const n = n0 + i, channel = c0 + j;
        if (n < P::sizes::state && channel < P::sizes::headdim) to[std::size_t(n) * P::sizes::headdim + channel] = v;
      });
    }
}

/// From what the chunks add to what enters and what leaves each, in place. Thread: one number of one head's state.
/// Block (part of the state, head, sequence counted from the scratch's first).
template <class P>
__global__ void __launch_bounds__(128) pass_states_kernel(backward_chunks s, int chunks) {
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
  g.each([&](int i, int j, float v) { square[i][j] = v; });
}

/// A head's channels in a chunk: U, with all that reads it, and what the entering state gives.
///
/// dx, and a thread's part of the sums of its rows. `state` and `dstate` are null where nothing enters or leaves.
template <class P>
struct chunk_channels {
  chunk_operands<P> const& in;
  chunk_decays const& decays;
  block_stage& stage;
  float const (&square)[backward_chunk][backward_chunk + 1];
  float const *state, *dstate;
  float later[4] = {}, earlier[4] = {}, x_u[4] = {}, dy_x[4] = {};

  /// 64 channels from c0 on; dx is at the chunk's first row.
  __device__ void run(int c0, float skip, typename P::element* dx, int stride) {
    if (state != nullptr) add_entering(c0);
    block_tile u;
    if (dstate != nullptr) add_leaving(c0, u);
    block_product<false, false>(
        u, stage, backward_chunk, [&](int j, int i) { return square[i][j]; },
        [&](int c, int i) { return in.dy_at(i, c0 + c); });
    int const row = block_tile::row(), channel = c0 + block_tile::column();
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
  /// The sums over channels.
  __device__ void write(chunk_sums& sums) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float const a = sum_over_half_warp(later[r]), b = sum_over_half_warp(earlier[r]), c = sum_over_half_warp(x_u[r]),
                  d = sum_over_half_warp(dy_x[r]);
      if (threadIdx.x % 16 != 0) continue;
      int const t = block_tile::row() + r;
      sums.later[t] = a, sums.earlier[t] = b, sums.x_u[t] = c, sums.skip[t] = d;
    }
  }

 private:
  __device__ void add_entering(int c0) {
    int const row = block_tile::row(), channel = c0 + block_tile::column();
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
  __device__ void add_leaving(int c0, block_tile& u) {
    int const row = block_tile::row(), channel = c0 + block_tile::column();
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
};

/// Block (chunk and sequence, head).
template <class P>
__global__ void __launch_bounds__(block_threads, 2) chunk_head_kernel(P p, backward_chunks s, int first, int chunks) {
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
  chunk_channels<P> channels{
      .in = in, .decays = decays, .stage = stage, .square = square, .state = state, .dstate = dstate};
  for (int c0 = 0; c0 < P::sizes::headdim; c0 += block_side)
    channels.run(c0, p.d[set + std::size_t(head)], p.dx + at.row * std::size_t(p.dx_stride) + head * P::sizes::headdim,
                 p.dx_stride);
  channels.write(sums);
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

/// A form of the scan's backward (backward_operands.cuh).
template <mixer_shape M, class T>
struct backward_general {
  using operands = backward_operands<M, T>;
  static constexpr bool possible = true, in_place = false;
  static constexpr std::size_t state = std::size_t(M.d_state) * M.headdim;
  /// Sequences go in slices of about this much scratch: enough for thousands of blocks at once.
  static constexpr std::size_t most_scratch = std::size_t{256} << 20;

  static bool fits(operands const&, device_properties const&) { return true; }

  static std::size_t scratch_bytes(int sequences, int length, device_properties const&) {
    return planned_bytes<backward_chunks>(places(slice(sequences, length), length), state);
  }

  static void launch(operands const& p, std::byte* scratch, device_properties const&, cudaStream_t stream) {
    int const chunks = chunks_of(p.length), most = slice(p.sequences, p.length);
    arena memory{scratch, planned_bytes<backward_chunks>(places(most, p.length), state)};
    backward_chunks const s{memory, places(most, p.length), state};
    for (int first = 0; first < p.sequences; first += most)
      launch_slice(p, s, first, std::min(most, p.sequences - first), chunks, stream);
  }

 private:
  static int chunks_of(int length) { return (length + backward_chunk - 1) / backward_chunk; }
  static std::size_t places(int sequences, int length) {
    return std::size_t(sequences) * std::size_t(chunks_of(length)) * M.heads;
  }
  static int slice(int sequences, int length) {
    std::size_t const one = places(1, length) * (2 * state + backward_chunk * backward_chunk) * sizeof(float);
    std::size_t const fit = std::clamp<std::size_t>(most_scratch / one, 1, 65535);
    return int(std::min<std::size_t>(fit, std::size_t(std::max(sequences, 1))));
  }
  static void launch_slice(operands const& p, backward_chunks const& s, int first, int count, int chunks,
                           cudaStream_t stream) {
    constexpr unsigned tiles = unsigned((M.d_state + block_side - 1) / block_side) * M.groups;
    unsigned const x = unsigned(count) * unsigned(chunks);
    if (chunks > 1) {
      detail::launch("ssd_backward: what chunks add", chunk_states_kernel<operands>,
                     {dim3(x, M.heads, 2), block_threads}, stream, p, s, first, chunks);
      detail::launch("ssd_backward: states", pass_states_kernel<operands>,
                     {dim3(blocks_for(state, 128), M.heads, unsigned(count)), 128}, stream, s, chunks);
    }
    detail::launch("ssd_backward: heads", chunk_head_kernel<operands>, {dim3(x, M.heads), block_threads}, stream, p, s,
                   first, chunks);
    detail::launch("ssd_backward: groups", chunk_group_kernel<operands>, {dim3(x, tiles, 2), block_threads}, stream, p,
                   s, first, chunks);
    detail::launch("ssd_backward: sums", chunk_sums_kernel<operands>,
                   {dim3(blocks_for(std::size_t(count) * M.heads, 128)), 128}, stream, p, s.da, s.d, first, count,
                   chunks);
  }
};

}  // namespace dm2::cuda::detail::ssd
