/// @file
/// What the packed mixer core puts into shared memory: convolved x, B and C, taps, and factors.
///
/// Neighbouring channels go in pairs, as halves in one register: silu(2 h) = h tanh(h) + h of a pair, with its
/// convolution, is 8 instructions, and 15 in float.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/fill.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// A pair of channels as the convolution computes them: in halves.
template <class T>
struct pair_in_halves {
  using number = std::uint32_t;
  __device__ static number of(float low, float high) { return pack<__half>(low, high); }
  __device__ static number from(std::uint32_t raw) { return as_halves<T>(raw); }
  __device__ static number fma(number a, number b, number c) { return fma_pairs<__half>(a, b, c); }
  /// silu(2 h), two halves.
  __device__ static std::uint32_t silu(number h) { return fma(h, tanh_halves(h), h); }
};
/// The same in float.
template <class T>
struct pair_in_float {
  using number = float2;
  __device__ static number of(float low, float high) { return {low, high}; }
  __device__ static number from(std::uint32_t raw) { return unpack<T>(raw); }
  __device__ static number fma(number a, number b, number c) { return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)}; }
  __device__ static std::uint32_t silu(number h) {
    return pack<T>(fmaf(h.x, tanh_fast(h.x), h.x), fmaf(h.y, tanh_fast(h.y), h.y));
  }
};
template <class Tr>
using channel_pair =
    std::conditional_t<Tr::halves, pair_in_halves<typename Tr::element>, pair_in_float<typename Tr::element>>;

/// Raw channels of one token, two pairs.
using raw_quad = packed<4>;

/// Halved taps and bias of four channels, in pairs: the sum is the h of silu(2 h).
template <class Tr>
struct alignas(16) quad_taps {
  using pair = channel_pair<Tr>;
  using number = typename pair::number;
  number weight[Tr::taps][2], bias[2];

  __device__ explicit quad_taps(channel_taps<Tr> const& c) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bias[h] = pair::of(c.bias[2 * h], c.bias[2 * h + 1]);
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) weight[k][h] = pair::of(c.weight[k][2 * h], c.weight[k][2 * h + 1]);
    }
  }
  /// silu(conv) of a pair h; rows(k, h) is its number of the token k behind the first one that counts.
  template <class Rows>
  [[nodiscard]] __device__ std::uint32_t operator()(int h, Rows const& rows) const {
    number sum = bias[h];
#pragma unroll
    for (int k = 0; k < Tr::taps; ++k) sum = pair::fma(weight[k][h], rows(k, h), sum);
    return pair::silu(sum);
  }
};

/// Taps and D of the units [begin, end) of a block to shared memory, a quad of columns a thread.
template <class Tr>
__device__ inline void fill_taps(direction_slices<Tr> const& at, direction_pointers const& p, layout<Tr> const& lay,
                                 int begin, int end, unsigned char* shared) {
  constexpr int quads = Tr::columns / 4;
  static_assert(sizeof(quad_taps<Tr>) <= std::size_t(Tr::tap_bytes) && Tr::tap_bytes % 16 == 0);
  for (int i = int(threadIdx.x); i < (end - begin) * quads; i += Tr::threads) {
    int const unit = begin + i / quads, channel = at.conv_channel(at.x(), unit * Tr::width + i % quads * 4);
    *reinterpret_cast<quad_taps<Tr>*>(shared + lay.taps + i * Tr::tap_bytes) =
        quad_taps<Tr>{channel_taps<Tr>{at, channel, 2, p}};
    if (i % quads == 0) reinterpret_cast<float*>(shared + lay.skips)[i / quads] = p.d[at.head(unit / Tr::per_head)];
  }
}

/// Bytes from a row of x to where the first pair of four neighbouring columns stands, 4 q and on; the second pair is
/// 16 bytes on. The order is that of unit_columns.
template <class Tr>
[[nodiscard]] __device__ inline int quad_place(int q) {
  constexpr int wide = Tr::wide_groups * 8;
  return q < wide ? q / 8 * 64 + q % 8 / 2 * 4 + q % 2 * 32 : wide * 8 + (q - wide) / 4 * 32 + q % 4 * 4;
}

/// Where a thread convolves x, bytes in shared memory, kept for the kernel's whole time: made anew for each unit, such
/// numbers were a third of the kernel's instructions. Threads of a warp that are in different runs read from different
/// banks, since a later thread has an earlier run.
template <class Tr>
struct convolved_place {
  static constexpr int quads = Tr::columns / 4, slots = Tr::convolving / quads;
  static constexpr int apart = slots * Tr::run;  ///< tokens from a thread's run to its next, earlier one
  static constexpr int rounds = (Tr::most_tiles * 16 + apart - 1) / apart;
  int taps;  ///< the thread's in the unit's
  int raw;   ///< the first raw token of its run; negative where it has none
  int x;     ///< its place in the run's first row; 0 where it has none
  int step;  ///< from a raw token to the next

  __device__ convolved_place(int thread, direction_slices<Tr> const& at, layout<Tr> const& lay)
      : raw{-1}, x{0}, step{Tr::boxes && at.tokens_reversed ? -Tr::raw_pitch : Tr::raw_pitch} {
    int const q = thread % quads, run = (lay.tokens - 1) / Tr::run - thread / quads, t = run * Tr::run;
    taps = lay.taps + q * Tr::tap_bytes;
    if (thread >= slots * quads || run < 0) return;
    x = lay.x + t * Tr::pitch + quad_place<Tr>(q);
    int const first = t + Tr::before + 1 - Tr::taps;
    raw = lay.raw + (step > 0 ? first : lay.tokens + Tr::before - 1 - first) * Tr::raw_pitch + q * 8;
  }
  /// Whether the thread has a run in this round.
  [[nodiscard]] __device__ bool has(int round, layout<Tr> const& lay) const {
    return round == 0 ? raw >= 0 : x >= lay.x + round * apart * Tr::pitch;
  }
  [[nodiscard]] __device__ quad_taps<Tr> taps_of(int unit, unsigned char const* shared) const {
    return *reinterpret_cast<quad_taps<Tr> const*>(shared + taps + unit * (quads * Tr::tap_bytes));
  }
};

/// x of a run of tokens of four channels.
template <class Tr>
struct convolved_run {
  std::uint32_t pairs[Tr::run][2];

  /// From raw x in shared memory.
  __device__ void make(convolved_place<Tr> const& at, int round, quad_taps<Tr> const& taps,
                       unsigned char const* shared) {
    using pair = channel_pair<Tr>;
    constexpr int window = Tr::taps - 1 + Tr::run;
    int raw = at.raw;
    hide(raw);  // else the sum with shared's address is kept as well
    unsigned char const* const from = shared + (raw - round * convolved_place<Tr>::apart * at.step);
    typename pair::number rows[window][2];
#pragma unroll
    for (int k = 0; k < window; ++k) {
      raw_quad const v = *reinterpret_cast<raw_quad const*>(from + k * at.step);
      rows[k][0] = pair::from(v.v[0]), rows[k][1] = pair::from(v.v[1]);
    }
#pragma unroll
    for (int i = 0; i < Tr::run; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) pairs[i][h] = taps(h, [&](int k, int of) { return rows[i + k][of]; });
  }
  __device__ void store(convolved_place<Tr> const& at, int round, unsigned char* shared) const {
    int x = at.x;
    hide(x);
    unsigned char* const to = shared + (x - round * convolved_place<Tr>::apart * Tr::pitch);
#pragma unroll
    for (int i = 0; i < Tr::run; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) *reinterpret_cast<std::uint32_t*>(to + i * Tr::pitch + h * 16) = pairs[i][h];
  }
};

/// x of the block's unit number `unit` to shared memory.
template <class Tr>
__device__ inline void fill_packed(convolved_place<Tr> const& at, layout<Tr> const& lay, int unit,
                                   unsigned char* shared) {
  quad_taps<Tr> const taps = at.taps_of(unit, shared);
#pragma unroll 1
  for (int round = 0; round < convolved_place<Tr>::rounds; ++round) {
    if (!at.has(round, lay)) break;
    convolved_run<Tr> own;
    own.make(at, round, taps, shared);
    own.store(at, round, shared);
  }
}

/// The same in two steps: x of a thread's runs waits in registers until its place is free. A run that a thread does not
/// have is zeros, 6 instructions: left undefined, its registers would be taken in the scan as well.
template <class Tr>
struct convolved_ahead {
  static constexpr int rounds = convolved_place<Tr>::rounds;
  convolved_run<Tr> runs[rounds];

  __device__ void make(convolved_place<Tr> const& at, layout<Tr> const& lay, int unit, unsigned char const* shared) {
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
      if (at.has(round, lay))
        runs[round].make(at, round, at.taps_of(unit, shared), shared);
      else
        runs[round] = {};
    }
  }
  __device__ void store(convolved_place<Tr> const& at, layout<Tr> const& lay, unsigned char* shared) const {
#pragma unroll
    for (int round = 0; round < rounds; ++round)
      if (at.has(round, lay)) runs[round].store(at, round, shared);
  }
};

/// B and C of a group to shared memory, four channels a thread. Tokens from `length` on repeat the last one: nothing
/// that is written depends on them.
template <class Tr>
__device__ inline void fill_packed_state(typename Tr::element const* sequence, direction_slices<Tr> const& at,
                                         direction_pointers const& p, layout<Tr> const& lay, int group, int length,
                                         unsigned char* shared) {
  using pair = channel_pair<Tr>;
  constexpr int S = Tr::halves ? 8 : 4, before = Tr::taps - 1, quads = 2 * Tr::state / 4, runs = Tr::threads / quads;
  static_assert(Tr::threads % quads == 0);
  int const quad = int(threadIdx.x) % quads, run = int(threadIdx.x) / quads, channel = quad * 4 % Tr::state;
  bool const is_c = quad * 4 >= Tr::state;
  int const slice = (is_c ? at.c() : at.b()) + group * Tr::state, per_run = tokens_per_run<S>(lay.tokens, runs);
  unsigned char* const to = shared + (is_c ? lay.c : lay.b) + channel % 8 * 2;
  typename Tr::element const* const from = sequence + slice + channel;
  auto const load = [&](int t) {
    return *reinterpret_cast<raw_quad const*>(from + at.row(min(t, length - 1), length) * Tr::projected);
  };
  int const t0 = run * per_run, t1 = min(t0 + per_run, lay.tokens);
  raw_quad next[S], first[before + 1]{};
  typename pair::number rows[before + S][2];
#pragma unroll
  for (int i = 0; i < S; ++i) next[i] = load(t0 + i);
#pragma unroll
  for (int k = 0; k < before; ++k)
    if (t0 > 0) first[k] = load(t0 - before + k);
  channel_taps<Tr> const taps{at, at.conv_channel(slice, channel), 2, p};
  __syncwarp();  // nothing is waited for before all of it is on its way: else there were three waits, one by one
  quad_taps<Tr> const own{taps};
#pragma unroll
  for (int k = 0; k < before; ++k) rows[k][0] = pair::from(first[k].v[0]), rows[k][1] = pair::from(first[k].v[1]);
#pragma unroll 1
  for (int t = t0; t < t1; t += S) {
#pragma unroll
    for (int i = 0; i < S; ++i)
      rows[before + i][0] = pair::from(next[i].v[0]), rows[before + i][1] = pair::from(next[i].v[1]);
    if (t + S < t1) {
#pragma unroll
      for (int i = 0; i < S; ++i) next[i] = load(t + S + i);
    }
#pragma unroll
    for (int i = 0; i < S; ++i) {
      auto const window = [&](int k, int h) { return rows[i + k][h]; };
      *reinterpret_cast<raw_quad*>(to + state_offset<Tr>(t + i, channel / 8)) = {{own(0, window), own(1, window)}};
    }
#pragma unroll
    for (int k = 0; k < before; ++k) rows[k][0] = rows[k + S][0], rows[k][1] = rows[k + S][1];
  }
}

/// Where the factors for block `own` of 64 tokens begin, in pairs: each block has 32 of each one before it.
[[nodiscard]] __device__ constexpr int factor_place(int own) { return 16 * own * (own - 1); }

/// Factors of earlier tokens j for each block of 64 from the second on: dt_j times the decay from j to the block's
/// start, in pairs, in the order in which a lane of a product has its columns of 16.
template <class Tr>
__device__ inline void fill_block_factors(int thread, layout<Tr> const& lay, float const* cum, float const* ev,
                                          unsigned char* shared) {
  static_assert(Tr::most_tiles <= 16);
  if (thread >= factor_place(4)) return;
  int const own = thread < factor_place(2) ? 1 : thread < factor_place(3) ? 2 : 3;
  if (own * 64 >= lay.tokens) return;
  float2 const from = *reinterpret_cast<float2 const*>(ev + 2 * (thread - factor_place(own)));
  float const start = cum[own * 64 - 1] + float(Tr::score_shift);
  reinterpret_cast<std::uint32_t*>(shared + lay.factors)[(thread & ~7) | (thread & 3) << 1 | (thread >> 2 & 1)] =
      pack<typename Tr::inside>(exp2_fast(start - from.x), exp2_fast(start - from.y));
}

}  // namespace dm2::cuda::detail::mixer_core
