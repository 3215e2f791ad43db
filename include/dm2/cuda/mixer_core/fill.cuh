/// @file
/// What the mixer core on tensor cores puts into shared memory: convolved x, B and C, decays, and the scores of every
/// pair of tokens.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// One thread's part of a convolution: two pairs of channels, `gap` apart, with halved taps and bias, so that the sum
/// is the h of silu(2 h) = h tanh(h) + h.
template <class Tr>
struct channel_taps {
  float weight[Tr::taps][4], bias[4];

  __device__ channel_taps(direction_slices<Tr> const& at, int first_channel, int gap, direction_pointers const& p) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      int const offset = v < 2 ? v : gap + v - 2;
      int channel = at.channels_reversed ? first_channel - offset : first_channel + offset;
      if constexpr (Tr::padded) channel = min(max(channel, 0), Tr::conv_dim - 1);
      bias[v] = 0.5f * p.conv_bias[channel];
      if constexpr (Tr::taps == 4) {  // in one access: aligned()
        float4 const w = *reinterpret_cast<float4 const*>(p.conv + channel * 4);
        weight[0][v] = 0.5f * w.x, weight[1][v] = 0.5f * w.y, weight[2][v] = 0.5f * w.z, weight[3][v] = 0.5f * w.w;
      } else {
#pragma unroll
        for (int k = 0; k < Tr::taps; ++k) weight[k][v] = 0.5f * p.conv[channel * Tr::taps + k];
      }
    }
  }
};

/// silu(conv) of four channels over the tokens [t0, t1), which hold whole groups of S: store(t, values). load(t) gives
/// the raw channels of any token from t0 - taps + 1 to t1 - 1, zeros before the start. A group is loaded while the one
/// before it is computed.
template <class Tr, int S, class Load, class Store>
__device__ inline void convolve(channel_taps<Tr> const& c, int t0, int t1, Load const& load, Store const& store) {
  using T = typename Tr::element;
  constexpr int V = 4, before = Tr::taps - 1;
  float window[before + S][V];
  auto const take = [&](packed<V> const& from, float(&to)[V]) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      float2 const pair = unpack<T>(from.v[v / 2]);
      to[v] = pair.x, to[v + 1] = pair.y;
    }
  };
  packed<V> next[S];
#pragma unroll
  for (int i = 0; i < S; ++i) next[i] = load(t0 + i);
#pragma unroll
  for (int k = 0; k < before; ++k) take(load(t0 - before + k), window[k]);
#pragma unroll 1
  for (int t = t0; t < t1; t += S) {
#pragma unroll
    for (int i = 0; i < S; ++i) take(next[i], window[before + i]);
    if (t + S < t1) {
#pragma unroll
      for (int i = 0; i < S; ++i) next[i] = load(t + S + i);
    }
#pragma unroll
    for (int i = 0; i < S; ++i) {
      float value[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float h = c.bias[v];
#pragma unroll
        for (int k = 0; k < Tr::taps; ++k) h = fmaf(c.weight[k][v], window[i + k][v], h);
        value[v] = fmaf(h, tanh_fast(h), h);
      }
      store(t + i, value);
    }
#pragma unroll
    for (int k = 0; k < before; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) window[k][v] = window[k + S][v];
  }
}

/// Tokens of each of `runs` threads: whole groups of S.
template <int S>
__device__ inline int tokens_per_run(int tokens, int runs) {
  return (tokens + S * runs - 1) / (S * runs) * S;
}

/// Byte offset of 16-byte chunk k of row t of B or C: chunks change places so that eight rows lie in different banks.
template <class Tr>
__device__ inline int state_offset(int t, int chunk) {
  constexpr int mask = Tr::state_bytes / 16 >= 8 ? 7 : Tr::state_bytes / 16 - 1;
  return t * Tr::state_bytes + ((chunk ^ (t & mask)) << 4);
}

/// B and C of a group, of the tokens from `start` on, to shared memory.
template <class Tr>
__device__ inline void fill_state(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                  direction_pointers const& p, layout<Tr> const& lay, int group, int start, int length,
                                  unsigned char* shared) {
  constexpr int V = 4, S = Tr::carries ? 8 : 4, quads = 2 * Tr::state / V, runs = Tr::threads / quads;
  int const quad = int(threadIdx.x) % quads, run = int(threadIdx.x) / quads;
  if (run >= runs) return;
  int const channel = quad * V % Tr::state;
  bool const is_c = quad * V >= Tr::state;
  int const slice = (is_c ? at.c() : at.b()) + group * Tr::state, per_run = tokens_per_run<S>(lay.tokens, runs);
  unsigned char* const to = shared + (is_c ? lay.c : lay.b) + channel % 8 * 2;
  typename Tr::element const* const from = sequence + slice + channel;
  convolve<Tr, S>(
      channel_taps<Tr>{at, at.conv_channel(slice, channel), 2, p}, run * per_run, min((run + 1) * per_run, lay.tokens),
      [&](int local) {
        int const t = start + local;
        packed<V> r{};
        if (t >= 0 && t < length) r = *reinterpret_cast<packed<V> const*>(from + at.row(t, length) * Tr::projected);
        return r;
      },
      [&](int t, float const(&value)[V]) {
        *reinterpret_cast<packed<V>*>(to + state_offset<Tr>(t, channel / 8)) = {
            {pack<typename Tr::element>(value[0], value[1]), pack<typename Tr::element>(value[2], value[3])}};
      });
}

/// Neighbouring heads.
struct head_range {
  int first, last;
};

/// Decays of the heads, one a warp, in the order of their `rank`, to decays [heads, 2, tokens]. They go to global
/// memory: shared memory has place for those of two heads.
template <class Tr>
__device__ inline void fill_decays(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                   direction_pointers const& p, int rank, head_range heads, int start, int length,
                                   int tokens, float* decays) {
  for (int head = heads.first + rank; head <= heads.last; head += Tr::warps) {
    int const h = at.head(head);
    head_decays<Tr>(sequence + at.dt() + head, at, -expf(p.a_log[h]) * log2_e, p.dt_bias[h], start, length, tokens,
                    decays + (head - heads.first) * 2 * tokens);
  }
}

/// The fragments of 16 rows of C.
template <class Tr>
using state_rows = std::uint32_t[Tr::state / 16][4];

/// C's rows of tile r.
template <class Tr>
__device__ inline void load_state_rows(state_rows<Tr>& c, int r, layout<Tr> const& lay, unsigned char const* shared) {
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Tr::state / 16; ++i)
    load_matrix(
        c[i], shared_address(shared) + std::uint32_t(lay.c + state_offset<Tr>(r * 16 + lane % 16, 2 * i + lane / 16)));
}

/// S = C B^T for the 16 tokens of tile r and every earlier one, as fragments: tile (r, c) at (r (r + 1) / 2 + c) 512
/// bytes. `a` holds the warp's rows of C.
template <class Tr>
__device__ inline void fill_scores(std::uint32_t const (&a)[Tr::state / 16][4], int r, layout<Tr> const& lay,
                                   unsigned char* shared) {
  using T = typename Tr::inside;
  constexpr float scale = 1.f / float(1 << Tr::score_shift);
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t const b = shared_address(shared) + std::uint32_t(lay.b);
  unsigned char* const to = shared + lay.scores + r * (r + 1) / 2 * 512 + lane * 16;
#pragma unroll 1
  for (int c = 0; c <= r; ++c) {
    float s[2][4] = {};
    int const row = c * 16 + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < Tr::state / 16; ++k) {
      std::uint32_t v[4];
      load_matrix(v, b + std::uint32_t(state_offset<Tr>(row, 2 * k + lane / 8 % 2)));
      mma<T>(s[0], a[k], v[0], v[1]);
      mma<T>(s[1], a[k], v[2], v[3]);
    }
    auto const both = [](float low, float high) {
      if constexpr (Tr::score_shift == 0)
        return pack<T>(low, high);
      else
        return pack_finite_halves(low * scale, high * scale);
    };
    *reinterpret_cast<uint4*>(to + c * 512) = {both(s[0][0], s[0][1]), both(s[0][2], s[0][3]), both(s[1][0], s[1][1]),
                                               both(s[1][2], s[1][3])};
  }
}

/// Starts the copy of one unit's raw x, from `start` on, to shared memory. Tokens before the sequence and from `length`
/// on are zeros.
template <class Tr>
__device__ inline void stage_raw(int thread, typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                 layout<Tr> const& lay, int unit, int start, int length, unsigned char* shared) {
  constexpr int wide = Tr::vector == 8 ? 8 : 4, pieces = Tr::width / wide, step = Tr::threads / pieces;
  int const piece = thread % pieces, row = thread / pieces;
  if (row >= step) return;
  auto const* const from = sequence + at.x() + unit * Tr::width + piece * wide;
  std::uint32_t to = shared_address(shared) + std::uint32_t(lay.raw + row * Tr::raw_pitch + piece * wide * 2);
#pragma unroll 1
  for (int r = row; r < lay.tokens + Tr::before; r += step, to += std::uint32_t(step * Tr::raw_pitch)) {
    int const t = start + r - Tr::before;
    bool const valid = t >= 0 && t < length;
    copy_async<2 * wide>(to, from + at.row(valid ? t : 0, length) * Tr::projected, valid);
  }
}

/// The same of the decays of its head, which `decays` are.
template <class Tr>
__device__ inline void stage_decays(int thread, layout<Tr> const& lay, int unit, float const* decays,
                                    unsigned char* shared) {
  if (thread < lay.tokens / 2)  // cum and ev, four numbers at a time
    copy_async(shared_address(shared) + std::uint32_t(lay.vectors + unit % 2 * 8 * lay.tokens + thread * 16),
               decays + thread * 4);
}

/// Starts the copy of one unit's decays and raw x.
template <class Tr>
__device__ inline void stage_unit(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                  layout<Tr> const& lay, int unit, int start, int length, float const* decays,
                                  unsigned char* shared) {
  int const thread = thread_here();
  stage_raw<Tr>(thread, sequence, at, lay, unit, start, length, shared);
  stage_decays<Tr>(thread, lay, unit, decays, shared);
  commit_copies();
}

/// The four columns of a unit that a thread convolves: those that stand at 4 q to 4 q + 3 in a row of x. Columns 8 i +
/// j of a wide group stand at 2 i + j % 2 + j / 2 * 8, columns 4 i + j of another at the same place: a lane's fragments
/// of the product are then columns that are neighbours in memory.
template <class Tr>
struct unit_columns {
  int q, first, gap;  ///< columns first, first + 1, first + gap, first + gap + 1

  __device__ explicit unit_columns(int thread) : q{thread % (Tr::columns / 4)} {
    int const n = q >> 1, m = q & 1;
    bool const wide = n < 4 * Tr::wide_groups;
    first = wide ? (n & ~3) * 8 + m * 16 + (n & 3) * 2 : (n & ~1) * 8 + m * 8 + (n & 1) * 2;
    gap = wide ? 8 : 4;
  }
};

/// x and, unless a state is carried, X' of one unit to shared memory. `taps` are those of this thread's columns.
template <class Tr>
__device__ inline void fill_unit(int thread, unit_columns<Tr> const& own, channel_taps<Tr> const& taps,
                                 layout<Tr> const& lay, float const* cum, float const* ev, unsigned char* shared) {
  using T = typename Tr::element;
  constexpr int runs = Tr::threads / (Tr::columns / 4);
  int const run = thread / (Tr::columns / 4);
  if (run >= runs) return;
  int const per_run = tokens_per_run<2>(lay.tokens, runs);
  int const scaled = Tr::carries ? 0 : (lay.tokens - 1) / 64 * 64, t0 = run * per_run,
            t1 = min(t0 + per_run, lay.tokens);
  unsigned char* const x = shared + lay.x + own.q * 8;
  unsigned char const* const raw = shared + lay.raw + Tr::before * Tr::raw_pitch + own.first * 2;
  int const gap = own.gap * 2;
  auto const write = [&](unsigned char* to, float const(&v)[4], float scale) {
    *reinterpret_cast<packed<4>*>(to) = {{pack<T>(scale * v[0], scale * v[1]), pack<T>(scale * v[2], scale * v[3])}};
  };
  convolve<Tr, 2>(
      taps, t0, t1,
      [&](int t) {
        unsigned char const* const from = raw + t * Tr::raw_pitch;
        return packed<4>{
            {*reinterpret_cast<std::uint32_t const*>(from), *reinterpret_cast<std::uint32_t const*>(from + gap)}};
      },
      [&](int t, float const(&v)[4]) {
        unsigned char* const to = x + t * Tr::pitch;
        write(to, v, 1.f);
        if (t < scaled) write(to + (lay.scaled - lay.x), v, exp2_fast(cum[t | 63] - ev[t]));
      });
}

}  // namespace dm2::cuda::detail::mixer_core
