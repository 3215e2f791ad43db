/// @file
/// Constants, shared memory, walks and decays of the mixer core's kernels.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::mixer_core {

/// Every constant of the kernel. A unit is the part of a head that a block works on at a time: `width` of its channels,
/// which the products take as `columns`; nothing reads what those behind the width come to.
template <class T, mixer_shape M>
struct traits {
  using element = T;
  static constexpr int heads = M.heads, headdim = M.headdim, state = M.d_state, taps = M.d_conv, groups = M.groups;
  static constexpr int inner = M.heads * M.headdim, conv_dim = inner + 2 * M.groups * M.d_state;
  static constexpr int projected = inner + conv_dim + M.heads;
  static constexpr bool reverse_channels = M.variant == mixer_variant::published;
  static constexpr int per_head = headdim <= 64 ? 1 : 2, width = headdim / per_head, columns = (width + 15) / 16 * 16;
  static constexpr int units = heads * per_head, group_units = units / groups, group = inner / groups;
  static constexpr bool padded = width != columns;
  static constexpr bool carries = false;  ///< whether a block has a state from one segment of a sequence to the next
  static constexpr bool packs = false;    ///< whether shared memory is the packed kernel's: see packed.cuh
  using inside = T;                       ///< numbers of convolved x, B and C, and of scores
  static constexpr int score_shift = 0;   ///< scores are kept divided by two to this power
  static constexpr int warps = 14, threads = 32 * warps, most_tiles = warps;  ///< a warp has a tile of 16 tokens

  /// Channels that a thread loads at a time: every slice of the projection starts at a multiple of it.
  static constexpr int vector = (projected % 8 == 0 && heads % 8 == 0) ? 8 : 4;
  /// Whether the kernel can do this shape at all.
  static constexpr bool possible = is_half<T> && (state == 16 || state == 32 || state == 64 || state == 128) &&
                                   headdim <= 128 && width * per_head == headdim && width % vector == 0 &&
                                   group % 8 == 0 && taps <= 4 && projected % 4 == 0 && heads % 4 == 0;

  static constexpr int before = 4;  ///< zero tokens in front of the raw x
  static constexpr int column_groups = columns / 16;
  /// 32 neighbouring columns whose order in a row of x gives a lane eight neighbours in memory; those that are left
  /// over stand in groups of 16, of which a lane has four.
  static constexpr int wide_groups = vector == 8 ? columns / 32 : 0;
  static constexpr int pitch = columns * 2 + 16;  ///< bytes of a row of x: an odd number of 16 bytes
  static constexpr int raw_pitch = columns * 2;   ///< of a row of raw x
  static constexpr int state_bytes = state * 2;   ///< of a row of B and C
  static constexpr bool share = state == 128;     ///< S takes C's place
};

/// Bytes of shared memory: where things lie, for n tiles of 16 tokens. A block that carries a state keeps B, and has
/// the state and factors of the tokens instead of scaled x; its C goes to registers, and 16 rows of it to `rows` where
/// there are more tiles than warps, before scores and x take its place. The packed kernel has whole runs of tokens,
/// factors, taps and D instead of scaled x.
template <class Tr>
struct layout {
  int tokens, scores, c, b, x, scaled, raw, state, vectors, factors, taps, skips, phase, rows, bytes;

  __host__ __device__ constexpr explicit layout(int n) {
    tokens = 16 * n;
    int const triangle = n * (n + 1) / 2 * 512, all_rows = tokens * Tr::state_bytes;
    scores = 0;
    if constexpr (Tr::carries) {
      c = 0, x = scaled = triangle;
      raw = x + tokens * Tr::pitch;
      state = raw + (tokens + Tr::before) * Tr::columns * 2;
      int const end = state + Tr::state * Tr::columns * 2;
      b = end > all_rows ? end : all_rows;
      vectors = b + all_rows;
      factors = vectors + 4 * tokens * int(sizeof(float));
      rows = factors + 2 * tokens * 2;
      bytes = rows + (n > Tr::warps ? 16 * Tr::state_bytes : 0);
      taps = skips = phase = 0;
      return;
    }
    state = factors = taps = skips = phase = rows = 0;
    c = Tr::share ? 0 : triangle;
    b = c + all_rows;
    x = triangle;
    scaled = x + tokens * Tr::pitch;
    int last = 0;
    if constexpr (Tr::packs) {
      int const runs = (tokens + Tr::run - 1) / Tr::run * Tr::run, blocks = (n - 1) / 4;
      // Boxes are in memory's order: where a direction's tokens are not, its last run ends before the first raw row.
      int const over = Tr::boxes && !Tr::reverse_channels ? (runs - tokens) * Tr::raw_pitch : 0;
      raw = (x + runs * Tr::pitch + over + 127) / 128 * 128;
      factors = (raw + (runs + Tr::before) * Tr::raw_pitch + 15) / 16 * 16;
      taps = factors + 64 * blocks * (blocks + 1) / 2 * 2;
      skips = taps + Tr::group_units * Tr::columns / 4 * Tr::tap_bytes;
      phase = skips + (Tr::group_units + 3) / 4 * 16;
      last = phase + 16;
    } else {
      raw = scaled + (tokens - 1) / 64 * 64 * Tr::pitch;
      last = raw + (tokens + Tr::before) * Tr::raw_pitch;
    }
    int const states_end = b + all_rows;  // no decays are there yet: 224 tokens of Tiny fit in twice
    vectors = Tr::packs || last > states_end ? last : states_end;
    bytes = vectors + 4 * tokens * int(sizeof(float));
    if (Tr::packs && states_end > bytes) bytes = states_end;
  }
};

/// One direction's parameters, as the kernel reads them.
struct direction_pointers {
  float const *conv, *conv_bias, *dt_bias, *a_log, *d;
};

/// One direction's parameters as the kernels read them.
template <mixer_shape M>
direction_pointers pointers_of(mixer_direction<M, float const, space::device> const& d) {
  return {.conv = d.conv.data,
          .conv_bias = d.conv_bias.data,
          .dt_bias = d.dt_bias.data,
          .a_log = d.a_log.data,
          .d = d.d.data};
}

template <class T>
struct arguments {
  T const* zxbcdt;  ///< [B L, projected]
  T* g;             ///< [B L, 2 inner]
  float* squares;   ///< [B L, 2, units], parts of each row's sum of g^2
  float* decays;    ///< [B, 2, H, 2, tokens], what fill_decays() makes
  direction_pointers direction[2];
  int length, units_per_block;
  float const* norm[2];  ///< weights of the directions' norms; null for ones
  bool finish;           ///< whether a block, which has made all units of its group's rows, norms them
  float* factors;        ///< [B L, 2, groups] or null: what it norms them with
};

/// Memory of a call on tensor cores beside its operands.
template <class T, mixer_shape M>
struct scratch {
  using traits = mixer_core::traits<T, M>;
  float* squares;            ///< [rows, 2, units]
  float* decays;             ///< as in arguments
  uint4* states;             ///< what state_packets() says; the network's plan leaves them to the scratch of each call
  float* factors = nullptr;  ///< [rows, 2, groups], the caller's, or null: what norms the rows

  scratch(arena& a, std::size_t rows, int length, std::size_t carried = 0) {
    std::size_t const sequences = rows / std::size_t(length);
    squares = a.take<float>(rows * 2 * traits::units);
    decays = a.take<float>(sequences * 2 * traits::heads * 2 * std::size_t((length + 15) / 16 * 16));
    states = a.take<uint4>(carried);
  }
};

/// Where one direction's slices start, and how its channels and tokens are walked. The second direction of the
/// published variant reads all channels in reverse; with its parameters read in reverse instead, it is an ordinary
/// direction over the mirrored slices [dt | C | B | x | z].
template <class Tr>
struct direction_slices {
  static constexpr int H = Tr::heads, N = Tr::groups * Tr::state, I = Tr::inner;
  bool channels_reversed, tokens_reversed;

  __device__ explicit direction_slices(bool second)
      : channels_reversed{second && Tr::reverse_channels}, tokens_reversed{second && !Tr::reverse_channels} {}
  [[nodiscard]] __device__ bool second() const { return channels_reversed || tokens_reversed; }
  // Computed where they are used: kept for the kernel's whole time, they would take registers that it does not have.
  [[nodiscard]] __device__ int z() const { return channels_reversed ? H + 2 * N + I : 0; }
  [[nodiscard]] __device__ int x() const { return channels_reversed ? H + 2 * N : I; }
  [[nodiscard]] __device__ int b() const { return channels_reversed ? H + N : 2 * I; }
  [[nodiscard]] __device__ int c() const { return channels_reversed ? H : 2 * I + N; }
  [[nodiscard]] __device__ int dt() const { return channels_reversed ? 0 : 2 * I + 2 * N; }
  /// Channel of the convolution that position i of x, B or C is.
  [[nodiscard]] __device__ int conv_channel(int slice, int i) const {
    int const position = slice + i;
    return channels_reversed ? Tr::conv_dim - 1 - (position - Tr::heads) : position - Tr::inner;
  }
  [[nodiscard]] __device__ int head(int h) const { return channels_reversed ? Tr::heads - 1 - h : h; }
  [[nodiscard]] __device__ std::ptrdiff_t row(int t, int length) const { return tokens_reversed ? length - 1 - t : t; }
};

/// This thread's index, of which the compiler knows nothing: what depends on it is computed where it is used. Kept for
/// the kernel's whole time, such numbers would take registers that it does not have.
__device__ inline int thread_here() {
  int thread = int(threadIdx.x);
  hide(thread);
  return thread & 1023;  // not negative: cheaper to divide
}

/// V consecutive 16-bit numbers in registers, two in each.
template <int V>
using packed = packet<std::uint32_t, V / 2>;

/// One warp: the decays of a head over `tokens` tokens from `start` on. cum[t] = log2 of the decay from there to t, t
/// counted from there; behind them ev[t] = cum[t] - log2(dt_t), so that exp2(cum[i] - ev[j]) = dt_j exp(c_i - c_j).
/// From `length` on dt is 0.
///
/// Shapes   raw: the projection's dt of the sequence's first row and this head; rate = A log2(e); cum [2, tokens], at
///          most 16 most_tiles tokens, in global or shared memory.
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
  for (int r = 0; r < rounds; ++r) sum[r] = sum_up_to_lane(sum[r], lane);
  float before = 0;
#pragma unroll
  for (int r = 0; r < rounds; ++r) {
    int const t = r * 32 + lane;
    float const whole = before + sum[r];
    before += __shfl_sync(~0u, sum[r], 31);
    if (t < tokens) cum[t] = whole, cum[tokens + t] = whole - log2f(step[r]);
  }
}

}  // namespace dm2::cuda::detail::mixer_core
