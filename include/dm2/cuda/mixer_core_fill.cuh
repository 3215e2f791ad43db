/// @file
/// What the fused mixer core puts into shared memory: convolved x, B and C, decays, and the scores of every pair of tokens.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/pack.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// One thread's part of a convolution: V channels, halved taps and bias, so that the sum is the h of
/// silu(2 h) = h tanh(h) + h.
template <class Tr, int V>
struct channel_taps {
  float weight[Tr::taps][V], bias[V];

  __device__ channel_taps(direction_slices<Tr> const& at, int first_channel, mixer_direction_pointers const& p) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      int const channel = at.channels_reversed ? first_channel - v : first_channel + v;
      bias[v] = 0.5f * p.conv_bias[channel];
      if constexpr (Tr::taps == 4) {  // in one access: mixer_core_aligned()
        float4 const w = *reinterpret_cast<float4 const*>(p.conv + channel * 4);
        weight[0][v] = 0.5f * w.x, weight[1][v] = 0.5f * w.y, weight[2][v] = 0.5f * w.z, weight[3][v] = 0.5f * w.w;
      } else {
#pragma unroll
        for (int k = 0; k < Tr::taps; ++k) weight[k][v] = 0.5f * p.conv[channel * Tr::taps + k];
      }
    }
  }
};

/// silu(conv) of V channels for S tokens at a time over [t0, t1), which holds whole groups of S: store(t, values). load(t)
/// gives the raw channels of any token from t0 - taps + 1 to t1 - 1, zeros before the start. The next group is loaded
/// while one is computed.
template <class Tr, int V, int S, class Load, class Store>
__device__ inline void convolve(channel_taps<Tr, V> const& c, int t0, int t1, Load const& load, Store const& store) {
  using T = typename Tr::element;
  float window[Tr::taps][V];
  auto const take = [&](packed<V> const& from, float(&to)[V]) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      float2 const pair = unpack<T>(from.word[v / 2]);
      to[v] = pair.x, to[v + 1] = pair.y;
    }
  };
  packed<V> next[S];
#pragma unroll
  for (int k = 1; k < Tr::taps; ++k) take(load(t0 - Tr::taps + k), window[k]);
#pragma unroll
  for (int i = 0; i < S; ++i) next[i] = load(t0 + i);
#pragma unroll 1
  for (int t = t0; t < t1; t += S) {
    packed<V> now[S];
#pragma unroll
    for (int i = 0; i < S; ++i) now[i] = next[i];
    if (t + S < t1) {
#pragma unroll
      for (int i = 0; i < S; ++i) next[i] = load(t + S + i);
    }
    float value[S][V];
#pragma unroll
    for (int i = 0; i < S; ++i) {
#pragma unroll
      for (int k = 1; k < Tr::taps; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) window[k - 1][v] = window[k][v];
      take(now[i], window[Tr::taps - 1]);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float h = c.bias[v];
#pragma unroll
        for (int k = 0; k < Tr::taps; ++k) h = fmaf(c.weight[k][v], window[k][v], h);
        value[i][v] = fmaf(h, tanh_fast(h), h);
      }
    }
    store(t, value);
  }
}

/// Tokens of each of `runs` threads: even, so that groups of two are whole.
__device__ inline int tokens_per_run(int tokens, int runs) { return (tokens + 2 * runs - 1) / (2 * runs) * 2; }

/// Byte offset of 16-byte chunk k of row t of B or C: chunks change places so that eight rows lie in different banks.
template <class Tr>
__device__ inline int state_offset(int t, int chunk) {
  constexpr int mask = Tr::state_bytes / 16 >= 8 ? 7 : Tr::state_bytes / 16 - 1;
  return t * Tr::state_bytes + ((chunk ^ (t & mask)) << 4);
}

/// B and C of every token to shared memory.
template <class Tr>
__device__ inline void fill_state(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                  mixer_direction_pointers const& p, mixer_core_layout<Tr> const& lay, int length,
                                  unsigned char* shared) {
  constexpr int V = Tr::vector, groups = 2 * Tr::state / V, runs = Tr::threads / groups;
  int const group = int(threadIdx.x) % groups, run = int(threadIdx.x) / groups;
  if (run >= runs) return;
  int const channel = group * V % Tr::state;
  bool const is_c = group * V >= Tr::state;
  int const slice = is_c ? at.c() : at.b(), per_run = tokens_per_run(lay.tokens, runs);
  unsigned char* const to = shared + (is_c ? lay.c : lay.b);
  typename Tr::element const* const from = sequence + slice + channel;
  convolve<Tr, V, 2>(
      channel_taps<Tr, V>{at, at.conv_channel(slice, channel), p}, run * per_run, min((run + 1) * per_run, lay.tokens),
      [&](int t) {
        packed<V> r{};
        if (t >= 0 && t < length) r = *reinterpret_cast<packed<V> const*>(from + at.row(t, length) * Tr::projected);
        return r;
      },
      [&](int t, float const(&value)[2][V]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          packed<V> out;
#pragma unroll
          for (int v = 0; v < V; v += 2) out.word[v / 2] = pack<typename Tr::element>(value[i][v], value[i][v + 1]);
          *reinterpret_cast<packed<V>*>(to + state_offset<Tr>(t + i, channel / 8) + channel % 8 * 2) = out;
        }
      });
}

/// One head's decays, by one warp: cum[t] = log2 of the decay from the start to t; ev[t] = cum[t] - log2(dt_t), so that
/// exp2(cum[i] - ev[j]) = dt_j exp(c_i - c_j). From `length` on dt is 0.
template <class Tr>
__device__ inline void fill_decay(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                  mixer_direction_pointers const& p, int head, int length, int tokens, float* cum,
                                  float* ev) {
  int const lane = int(threadIdx.x) % 32, h = at.head(head);
  float const rate = -expf(p.a_log[h]) * log2_e, bias = p.dt_bias[h];
  auto const load = [&](int t) {
    return t < length ? to_float(sequence[at.row(t, length) * Tr::projected + at.dt() + head]) : 0.f;
  };
  float before = 0, raw = load(lane);
#pragma unroll 1
  for (int t = lane; t - lane < tokens; t += 32) {
    float const step = t < length ? softplus(raw + bias) : 0.f;
    raw = load(t + 32);
    float sum = step * rate;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      float const other = __shfl_up_sync(~0u, sum, o);
      if (lane >= o) sum += other;
    }
    sum += before;
    before = __shfl_sync(~0u, sum, 31);
    if (t < tokens) cum[t] = sum, ev[t] = sum - log2f(step);
  }
}

/// S = C B^T for the 32 tokens from 32 q on and every earlier one, as fragments: tile (r, c) at (r (r + 1) / 2 + c) 512
/// bytes. `a` holds the warp's rows of C.
template <class Tr>
__device__ inline void fill_scores(std::uint32_t const (&a)[Tr::state / 16][2][4], int q, int tiles,
                                   mixer_core_layout<Tr> const& lay, unsigned char* shared) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, last = min(2 * q + 2, tiles);
  std::uint32_t const b = shared_address(shared) + std::uint32_t(lay.b);
#pragma unroll 1
  for (int c = 0; c < last; ++c) {
    float s[2][2][4] = {};
    int const row = c * 16 + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < Tr::state / 16; ++k) {
      std::uint32_t r[4];
      load_matrix(r, b + std::uint32_t(state_offset<Tr>(row, 2 * k + lane / 8 % 2)));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma<T>(s[m][0], a[k][m], r[0], r[1]);
        mma<T>(s[m][1], a[k][m], r[2], r[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      int const r = 2 * q + m;
      if (c > r || r >= tiles) continue;
      uint4 const fragment{pack<T>(s[m][0][0], s[m][0][1]), pack<T>(s[m][0][2], s[m][0][3]),
                           pack<T>(s[m][1][0], s[m][1][1]), pack<T>(s[m][1][2], s[m][1][3])};
      *reinterpret_cast<uint4*>(shared + lay.scores + (r * (r + 1) / 2 + c) * 512 + lane * 16) = fragment;
    }
  }
}

/// Starts the copy of one unit's raw x to shared memory. Tokens before the start and from `length` on are zeros.
template <class Tr>
__device__ inline void stage_unit(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                  mixer_core_layout<Tr> const& lay, int unit, int length, unsigned char* shared) {
  constexpr int wide = Tr::vector == 8 ? 8 : 4, pieces = Tr::columns / wide;
  typename Tr::element const* const from = sequence + at.x() + unit * Tr::columns;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < (lay.tokens + Tr::before) * pieces; i += Tr::threads) {
    int const t = i / pieces - Tr::before, piece = i % pieces;
    bool const valid = t >= 0 && t < length;
    void const* const source = from + at.row(valid ? t : 0, length) * Tr::projected + piece * wide;
    copy_async<2 * wide>(shared_address(shared) + std::uint32_t(lay.raw + i * 2 * wide), source, valid);
  }
  commit_copies();
}

/// The first of the four columns of a unit that a thread convolves.
template <class Tr>
__device__ inline int unit_column() {
  return int(threadIdx.x) % (Tr::columns / 4) * 4;
}

/// x and X' of one unit to shared memory. Inside each 16 columns, column 4 i + j lies at 2 i + j and, from j = 2 on, at
/// 8 + 2 i + j - 2: the fragments of the product then give a thread four columns that are neighbours in memory.
/// `taps` are those of this thread's four columns, unit_column().
template <class Tr>
__device__ inline void fill_unit(channel_taps<Tr, 4> const& taps, mixer_core_layout<Tr> const& lay, float const* cum,
                                 float const* ev, unsigned char* shared) {
  using T = typename Tr::element;
  constexpr int groups = Tr::columns / 4, runs = Tr::threads / groups;
  int const run = int(threadIdx.x) / groups;
  if (run >= runs) return;
  int const column = unit_column<Tr>(), per_run = tokens_per_run(lay.tokens, runs);
  int const scaled = (lay.tokens - 1) / 64 * 64, t0 = run * per_run, t1 = min(t0 + per_run, lay.tokens);
  int const place = (column / 16 * 16 + column % 16 / 2) * 2;
  unsigned char* const x = shared + lay.x + place;
  unsigned char const* const raw = shared + lay.raw + (Tr::before * Tr::columns + column) * 2;
  auto const write = [&](unsigned char* to, float const(&v)[4], float scale) {
    *reinterpret_cast<std::uint32_t*>(to) = pack<T>(scale * v[0], scale * v[1]);
    *reinterpret_cast<std::uint32_t*>(to + 16) = pack<T>(scale * v[2], scale * v[3]);
  };
  convolve<Tr, 4, 2>(
      taps, t0, t1, [&](int t) { return *reinterpret_cast<packed<4> const*>(raw + t * Tr::columns * 2); },
      [&](int t, float const(&v)[2][4]) {
        unsigned char* const to = x + t * Tr::pitch;
        write(to, v[0], 1.f);
        write(to + Tr::pitch, v[1], 1.f);
        if (t >= scaled) return;
        float const end = cum[t | 63];
        float2 const e = *reinterpret_cast<float2 const*>(ev + t);
        write(to + (lay.scaled - lay.x), v[0], exp2_fast(end - e.x));
        write(to + (lay.scaled - lay.x) + Tr::pitch, v[1], exp2_fast(end - e.y));
      });
}

}  // namespace dm2::cuda::detail
