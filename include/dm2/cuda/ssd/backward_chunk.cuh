/// @file
/// One chunk of the scan's backward in float.
///
/// A chunk's place, its decays and its operands as float, which the kernels share; then the gradients of B and C, the
/// sums over a group's heads.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/ssd/backward_operands.cuh>
#include <dm2/cuda/tile/block_product.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// Tokens of a chunk.
inline constexpr int backward_chunk = block_side;

/// Scratch for some sequences; "place" is head + H (chunk + chunks sequence).
struct backward_chunks {
  float* states;   ///< [places, N, P]: what a chunk adds to the state, then the state that enters it
  float* dstates;  ///< [places, N, P]: what a chunk adds to the state's gradient, then the gradient that leaves it
  float* scores;   ///< [places, 64, 64]: the head's part of the gradient of C B^T
  float* decay;    ///< [places]: exp of the chunk's sum of dt A
  float *da, *d;   ///< [places]: the chunk's sums for A and D

  backward_chunks(arena& s, std::size_t places, std::size_t state) {
    states = s.take<float>(places * state);
    dstates = s.take<float>(places * state);
    scores = s.take<float>(places * backward_chunk * backward_chunk);
    decay = s.take<float>(places);
    da = s.take<float>(places);
    d = s.take<float>(places);
  }
};

/// The chunk that a block works on: block x is chunk + chunks sequence, the sequence counted from `first`.
struct chunk_place {
  int chunk, chunks, sequence, tokens;
  std::size_t row;    ///< of the chunk's first token
  std::size_t place;  ///< of head 0 in the scratch

  template <class P>
  __device__ chunk_place(P const& p, int first, int chunks_)
      : chunk{int(blockIdx.x) % chunks_},
        chunks{chunks_},
        sequence{first + int(blockIdx.x) / chunks_},
        tokens{min(backward_chunk, p.length - chunk * backward_chunk)},
        row{std::size_t(sequence) * std::size_t(p.length) + std::size_t(chunk) * backward_chunk},
        place{std::size_t(blockIdx.x) * P::sizes::heads} {}

  [[nodiscard]] __device__ bool last() const { return chunk + 1 == chunks; }
};

/// One head's decays in a chunk, in shared memory. The sums are double: exponents are differences of two of them, and
/// after a hundred steps of a head that forgets at once float would leave 1e-5 of a difference.
struct chunk_decays {
  double sum[backward_chunk];  ///< of dt A over the chunk's tokens up to each
  double part[backward_chunk];
  float step[backward_chunk];  ///< dt, 0 from the sequence's end on
  float in[backward_chunk];    ///< dt_t exp(end - sum_t): how much of token t is in the state at the chunk's end
  float out[backward_chunk];   ///< exp(sum_t): how much of the entering state token t sees
  float left[backward_chunk];  ///< exp(end - sum_t)

  /// Every thread of the block calls it; the decays are there when it returns.
  template <class P>
  __device__ void fill(P const& p, chunk_place const& at, int head) {
    int const t = int(threadIdx.x);
    bool const active = t < backward_chunk;
    double const rate = double(p.a[std::size_t(at.sequence / p.set_size) * P::sizes::heads + head]);
    __syncthreads();  // the last head's decays are done with
    if (active) step[t] = t < at.tokens ? p.dt[(at.row + std::size_t(t)) * P::sizes::heads + head] : 0.f;
    __syncthreads();
    if (active) {
      double sum_ = 0;
      for (int k = t / 8 * 8; k <= t; ++k) sum_ += double(step[k]) * rate;
      part[t] = sum_;
    }
    __syncthreads();
    if (active) {
      double before = 0;
      for (int k = 7; k < t / 8 * 8; k += 8) before += part[k];
      sum[t] = before + part[t];
    }
    __syncthreads();
    if (active) {
      left[t] = expf(float(sum[backward_chunk - 1] - sum[t]));
      in[t] = step[t] * left[t];
      out[t] = expf(float(sum[t]));
    }
    __syncthreads();
  }
  /// exp of the whole chunk's sum.
  [[nodiscard]] __device__ float whole() const { return out[backward_chunk - 1]; }
  /// exp(sum_i - sum_j), i >= j.
  [[nodiscard]] __device__ float between(int i, int j) const { return expf(float(sum[i] - sum[j])); }
};

/// square [64, 65] holds gamma; part q of to gets, at t, the sum of gamma_ij over i >= t > j of the q-th of `Parts`
/// parts of the rows. 64 Parts threads. Overwrites square with the rows' running sums.
template <int Parts>
__device__ inline void rectangle_sums(float (&square)[backward_chunk][backward_chunk + 1],
                                      float (&to)[Parts][backward_chunk]) {
  constexpr int rows = backward_chunk / Parts;
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  __syncthreads();
  for (int i = warp; i < backward_chunk; i += 2 * Parts) {
    float const low = square[i][2 * lane], high = low + square[i][2 * lane + 1];
    float const sum = sum_up_to_lane(high, lane);
    float const before = __shfl_up_sync(0xffffffffu, sum, 1);
    square[i][2 * lane] = lane == 0 ? low : before + low;
    square[i][2 * lane + 1] = sum;
  }
  __syncthreads();
  int const t = int(threadIdx.x) % backward_chunk, q = int(threadIdx.x) / backward_chunk;
  float sum = 0;
  for (int i = max(rows * q, t); i < rows * (q + 1); ++i)
    if (t > 0) sum += square[i][t - 1];
  to[q][t] = sum;
  __syncthreads();
}

/// One head's operands in a chunk as float: 0 past the sequence's tokens, past its channels, past its states.
template <class P>
struct chunk_operands {
  using T = typename P::element;
  T const *x, *dy, *b, *c;  ///< the chunk's first token
  int x_stride, dy_stride, b_stride, c_stride, tokens;

  __device__ chunk_operands(P const& p, chunk_place const& at, int head)
      : x{p.x + at.row * std::size_t(p.x_stride) + head * P::sizes::headdim},
        dy{p.dy + at.row * std::size_t(p.dy_stride) + head * P::sizes::headdim},
        b{p.b + at.row * std::size_t(p.b_stride) + head / (P::sizes::per_group)*P::sizes::state},
        c{p.c + at.row * std::size_t(p.c_stride) + head / (P::sizes::per_group)*P::sizes::state},
        x_stride{p.x_stride},
        dy_stride{p.dy_stride},
        b_stride{p.b_stride},
        c_stride{p.c_stride},
        tokens{at.tokens} {}

  [[nodiscard]] __device__ float get(T const* from, int stride, int t, int i, int width) const {
    return t < tokens && i < width ? to_float(from[std::size_t(t) * std::size_t(stride) + i]) : 0.f;
  }
  [[nodiscard]] __device__ float x_at(int t, int channel) const {
    return get(x, x_stride, t, channel, P::sizes::headdim);
  }
  [[nodiscard]] __device__ float dy_at(int t, int channel) const {
    return get(dy, dy_stride, t, channel, P::sizes::headdim);
  }
  [[nodiscard]] __device__ float b_at(int t, int state) const { return get(b, b_stride, t, state, P::sizes::state); }
  [[nodiscard]] __device__ float c_at(int t, int state) const { return get(c, c_stride, t, state, P::sizes::state); }
};

/// One place's state, 0 outside.
template <class P>
__device__ inline float state_at(float const* state, int n, int channel) {
  return n < P::sizes::state && channel < P::sizes::headdim ? state[std::size_t(n) * P::sizes::headdim + channel] : 0.f;
}

/// What a block of chunk_group_kernel works on: 64 states of a group, from n0 on, of dB or dC.
template <class P>
struct chunk_group_place {
  static constexpr int per_group = P::sizes::per_group, tiles = (P::sizes::state + block_side - 1) / block_side;
  chunk_place at;
  int group, n0;
  bool of_b;
  std::size_t place;  ///< of the group's first head

  __device__ chunk_group_place(P const& p, int first, int chunks)
      : at{p, first, chunks},
        group{int(blockIdx.y) / tiles},
        n0{int(blockIdx.y) % tiles * block_side},
        of_b{blockIdx.z == 0},
        place{at.place + std::size_t(group * per_group)} {}
};

/// sum = dG B or dG^T C, dG the sum of the heads' parts.
template <class P>
__device__ inline void multiply_scores(block_tile& sum, block_stage& stage, P const& p, float const* scores,
                                       chunk_group_place<P> const& k) {
  chunk_operands<P> const all{p, k.at, k.group * k.per_group};
  auto const score = [&](int i, int j) {
    float v = 0;
    for (int h = 0; h < k.per_group; ++h)
      v += scores[(k.place + std::size_t(h)) * (backward_chunk * backward_chunk) + std::size_t(i * backward_chunk + j)];
    return v;
  };
  if (k.of_b)
    block_product<false, false>(
        sum, stage, backward_chunk, [&](int j, int i) { return score(i, j); },
        [&](int n, int i) { return all.c_at(i, k.n0 + n); });
  else
    block_product<true, false>(
        sum, stage, backward_chunk, [&](int i, int j) { return score(i, j); },
        [&](int n, int j) { return all.b_at(j, k.n0 + n); });
}

/// sum += what one head's state gives: the one that enters to dC, the gradient of the one that leaves to dB.
template <class P>
__device__ inline void add_head_state(block_tile& sum, block_stage& stage, chunk_operands<P> const& in,
                                      chunk_decays const& decays, float const* state, chunk_group_place<P> const& k) {
  auto const state_of = [&](int n, int c) { return state_at<P>(state, k.n0 + n, c); };
  if (k.of_b)
    block_product<true, true>(
        sum, stage, P::sizes::headdim, [&](int j, int c) { return decays.in[j] * in.x_at(j, c); }, state_of);
  else
    block_product<true, true>(
        sum, stage, P::sizes::headdim, [&](int i, int c) { return decays.out[i] * in.dy_at(i, c); }, state_of);
}

/// dC = dG B + sum over heads of exp(sum_i) dy_i h^T, dB = dG^T C + sum over heads of dt_j exp(end - sum_j) x_j dh^T.
/// Block (chunk and sequence, group and 64 of its states, dB or dC).
template <class P>
__global__ void __launch_bounds__(block_threads, 2) chunk_group_kernel(P p, backward_chunks s, int first, int chunks) {
  __shared__ block_stage stage;
  __shared__ chunk_decays decays;
  constexpr std::size_t size = std::size_t(P::sizes::state) * P::sizes::headdim;
  chunk_group_place<P> const k{p, first, chunks};
  block_tile sum;
  multiply_scores(sum, stage, p, s.scores, k);
  if (k.of_b ? !k.at.last() : k.at.chunk > 0)
    for (int h = 0; h < k.per_group; ++h) {
      int const head = k.group * k.per_group + h;
      decays.fill(p, k.at, head);
      chunk_operands<P> const in{p, k.at, head};
      add_head_state(sum, stage, in, decays, (k.of_b ? s.dstates : s.states) + (k.place + std::size_t(h)) * size, k);
    }
  typename P::element* const to = k.of_b ? p.db : p.dc;
  int const stride = k.of_b ? p.db_stride : p.dc_stride;
  sum.each([&](int t, int j, float v) {
    int const n = k.n0 + j;
    if (t < k.at.tokens && n < P::sizes::state)
      to[(k.at.row + std::size_t(t)) * std::size_t(stride) + k.group * P::sizes::state + n] =
          from_float<typename P::element>(v);
  });
}

/// A sequence's sums for A and D from its chunks', da and d_skip [sequences, chunks, H], in order. Thread: one head of
/// one sequence.
template <class P>
__global__ void __launch_bounds__(128)
    chunk_sums_kernel(P p, float const* da, float const* d_skip, int first, int count, int chunks) {
  int const i = int(blockIdx.x) * 128 + int(threadIdx.x), head = i % P::sizes::heads, sequence = i / P::sizes::heads;
  if (sequence >= count) return;
  float a = 0, d = 0;
#pragma unroll 16  // loads under way: a thread does little but wait for them
  for (int k = 0; k < chunks; ++k) {
    std::size_t const place = (std::size_t(sequence) * std::size_t(chunks) + std::size_t(k)) * P::sizes::heads + head;
    a += da[place], d += d_skip[place];
  }
  p.da[std::size_t(first + sequence) * P::sizes::heads + head] = a;
  p.d_skip[std::size_t(first + sequence) * P::sizes::heads + head] = d;
}

}  // namespace dm2::cuda::detail::ssd
