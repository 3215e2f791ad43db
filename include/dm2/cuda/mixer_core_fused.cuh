/// @file
/// The mixer between its projections as one kernel: convolution, SiLU, scan and gate of one direction of one sequence a
/// block, for sequences of at most 224 tokens in 16-bit numbers.
///
/// The scan is the quadratic form of state-space duality. S = C B^T is made once for all heads and kept in shared
/// memory as fragments of the tensor cores. Tokens go in blocks of 64: for an earlier block J, exp(c_i - c_j) is split
/// at e_J, the decay's sum at J's end, so that S multiplies X'_j = dt_j exp(e_J - c_j) x_j as it is; inside a block the
/// difference is taken before exp. Both factors of the split are at most 1.
///
/// The gated RMSNorm needs the sum of squares over all heads. A block that has made whole rows norms them at its end,
/// while the cache still has them; or the kernel leaves what is to be normed and each unit's sum, and the reader applies
/// the rest: the output projection commutes with a factor a row.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Every constant of the kernel. A unit is the part of a head that a block works on at a time: `columns` of its
/// channels.
template <class T, mixer_shape M>
struct mixer_core_traits {
  using element = T;
  static constexpr int heads = M.heads, headdim = M.headdim, state = M.d_state, taps = M.d_conv;
  static constexpr int inner = M.heads * M.headdim, conv_dim = inner + 2 * M.groups * M.d_state;
  static constexpr int projected = inner + conv_dim + M.heads;
  static constexpr bool reverse_channels = M.variant == mixer_variant::published;
  static constexpr int columns = headdim <= 64 ? headdim : headdim / 2, units = inner / columns;
  static constexpr int per_head = headdim / columns;
  static constexpr int threads = 256, most_tiles = 14;

  /// Channels that a thread loads at a time: every slice of the projection starts at a multiple of it.
  static constexpr int vector = (projected % 8 == 0 && heads % 8 == 0) ? 8 : 4;
  /// Whether the kernel can do this shape at all.
  static constexpr bool possible =
      is_half<T> && M.groups == 1 && (state == 16 || state == 32 || state == 64 || state == 128) &&
      headdim % columns == 0 && columns % 16 == 0 && taps <= 4 && projected % 4 == 0 && heads % 4 == 0;

  static constexpr int before = 4;  ///< zero tokens in front of the raw x
  static constexpr int column_groups = columns / 16;
  static constexpr int pitch = columns * 2 + 16;  ///< bytes of a row of x: an odd number of 16 bytes
  static constexpr int state_bytes = state * 2;   ///< of a row of B and C
  static constexpr bool share = state == 128;     ///< S takes C's place
};

/// Bytes of shared memory: where things lie, for n tiles of 16 tokens.
template <class Tr>
struct mixer_core_layout {
  int tokens, scores, c, b, x, scaled, raw, vectors, bytes;

  __host__ __device__ explicit mixer_core_layout(int n) {
    tokens = 16 * n;
    int const triangle = n * (n + 1) / 2 * 512, rows = tokens * Tr::state_bytes;
    scores = 0;
    c = Tr::share ? 0 : triangle;
    b = c + rows;
    x = triangle;
    scaled = x + tokens * Tr::pitch;
    raw = scaled + (tokens - 1) / 64 * 64 * Tr::pitch;
    int const last = raw + (tokens + Tr::before) * Tr::columns * 2;
    vectors = last > b + rows ? last : b + rows;
    bytes = vectors + 4 * tokens * int(sizeof(float));
  }
};

/// One direction's parameters, as the kernel reads them.
struct mixer_direction_pointers {
  float const *conv, *conv_bias, *dt_bias, *a_log, *d;
};

template <class T>
struct mixer_core_arguments {
  T const* zxbcdt;  ///< [B L, projected]
  T* g;             ///< [B L, 2 inner]
  float* squares;   ///< [B L, 2, units]
  mixer_direction_pointers direction[2];
  int length, units_per_block;
  float const* norm[2];  ///< weights of the directions' norms; null for ones
  bool finish;           ///< whether a block, which has made all units of its rows, norms them
};

/// Where one direction's slices start, and how its channels and tokens are walked. The second direction of the published
/// variant reads all channels in reverse; with its parameters read in reverse instead, it is an ordinary direction over
/// the mirrored slices [dt | C | B | x | z].
template <class Tr>
struct direction_slices {
  static constexpr int H = Tr::heads, N = Tr::state, I = Tr::inner;
  bool channels_reversed, tokens_reversed;

  __device__ explicit direction_slices(bool second)
      : channels_reversed{second && Tr::reverse_channels}, tokens_reversed{second && !Tr::reverse_channels} {}
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

/// V consecutive 16-bit numbers in registers.
template <int V>
struct alignas(2 * V) packed {
  std::uint32_t word[V / 2];
};

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

/// What a warp needs to multiply its 32 tokens' rows of S with x or X'.
template <class Tr>
struct unit_operands {
  static constexpr int G = Tr::column_groups;
  unsigned char const* scores[2];  ///< the warp's two rows of tiles, this lane's part
  std::uint32_t x, scaled;         ///< this lane's place in the first tile

  __device__ unit_operands(int q, int tiles, mixer_core_layout<Tr> const& lay, unsigned char const* shared) {
    int const lane = int(threadIdx.x) % 32;
    int const r0 = 2 * q,
              r1 = min(2 * q + 1, tiles - 1);  // the last pair may have one tile: its second half is not kept
    scores[0] = shared + lay.scores + r0 * (r0 + 1) / 2 * 512 + lane * 16;
    scores[1] = shared + lay.scores + r1 * (r1 + 1) / 2 * 512 + lane * 16;
    std::uint32_t const matrix = shared_address(shared) + std::uint32_t((lane % 16) * Tr::pitch + lane / 16 * 16);
    x = matrix + std::uint32_t(lay.x);
    scaled = matrix + std::uint32_t(lay.scaled);
  }
  __device__ void load_scores(std::uint32_t (&a)[2][4], int c) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint4 const v = *reinterpret_cast<uint4 const*>(scores[m] + c * 512);
      a[m][0] = v.x, a[m][1] = v.y, a[m][2] = v.z, a[m][3] = v.w;
    }
  }
  __device__ void load_columns(std::uint32_t (&b)[4], std::uint32_t from, int c, int n) const {
    load_matrix_transposed(b, from + std::uint32_t(c * 16 * Tr::pitch + n * 32));
  }
  __device__ static void multiply(float (&acc)[2][2 * G][4], std::uint32_t const (&a)[2][4],
                                  std::uint32_t const (&b)[4], int n) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      mma<typename Tr::element>(acc[m][2 * n], a[m], b[0], b[1]);
      mma<typename Tr::element>(acc[m][2 * n + 1], a[m], b[2], b[3]);
    }
  }
};

/// What the blocks of 64 tokens before the warp's own add to its rows, decayed to the own block's start. The fragments
/// of a tile are loaded while the one before is multiplied.
template <class Tr>
__device__ inline void scan_before(float (&acc)[2][2 * Tr::column_groups][4], int own, unit_operands<Tr> const& in,
                                   float const* cum) {
  constexpr int G = Tr::column_groups;
  std::uint32_t a[2][2][4], b[2][4];
  if (own > 0) in.load_scores(a[0], 0), in.load_columns(b[0], in.scaled, 0, 0);
#pragma unroll 1
  for (int block = 0; block < own; ++block) {
    if (block > 0) {
      float const decay = exp2_fast(cum[block * 64 + 63] - cum[block * 64 - 1]);
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2 * G; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) acc[m][n][e] *= decay;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const c = block * 4 + i;
      if (c + 1 < own * 4) in.load_scores(a[(i + 1) % 2], c + 1);
#pragma unroll
      for (int n = 0; n < G; ++n) {
        int const k = i * G + n;
        if (n + 1 < G)
          in.load_columns(b[(k + 1) % 2], in.scaled, c, n + 1);
        else if (c + 1 < own * 4)
          in.load_columns(b[(k + 1) % 2], in.scaled, c + 1, 0);
        in.multiply(acc, a[i % 2], b[k % 2], n);
      }
    }
  }
}

/// The warp's own block of 64 tokens, up to each row's own token.
template <class Tr>
__device__ inline void scan_own(float (&acc)[2][2 * Tr::column_groups][4], int q, int tiles,
                                unit_operands<Tr> const& in, mixer_core_layout<Tr> const& lay, float const* cum,
                                float const* ev, float skip) {
  using T = typename Tr::element;
  constexpr int G = Tr::column_groups;
  int const lane = int(threadIdx.x) % 32, row = lane / 4, column = lane % 4 * 2, own = q / 2;
  int const last = min(2 * q + 1, tiles - 1);
  float at_row[2][2];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) at_row[m][half] = cum[min(q * 32 + m * 16 + half * 8 + row, lay.tokens - 1)];
  if (own > 0) {
    float const start = cum[own * 64 - 1];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float const f[2]{exp2_fast(at_row[m][0] - start), exp2_fast(at_row[m][1] - start)};
#pragma unroll
      for (int n = 0; n < 2 * G; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[m][n][e] *= f[e / 2];
    }
  }
#pragma unroll 1
  for (int c = own * 4; c <= last; ++c) {
    std::uint32_t a[2][4], b[2][4];
    in.load_scores(a, c);
    in.load_columns(b[0], in.x, c, 0);
    float2 const to[2]{*reinterpret_cast<float2 const*>(ev + c * 16 + column),
                       *reinterpret_cast<float2 const*>(ev + c * 16 + 8 + column)};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if (c > 2 * q + m) {
        a[m][0] = a[m][1] = a[m][2] = a[m][3] = 0;
        continue;
      }
      bool const diagonal = c == 2 * q + m;
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // row half e % 2, column half e / 2
        float2 v = unpack<T>(a[m][e]);
        v.x *= exp2_fast(at_row[m][e % 2] - to[e / 2].x);
        v.y *= exp2_fast(at_row[m][e % 2] - to[e / 2].y);
        if (diagonal) {  // tokens after the row's own do not count, and its own has the skip term
          int const i = row + e % 2 * 8, j = column + e / 2 * 8;
          v.x = j < i ? v.x : j == i ? v.x + skip : 0.f;
          v.y = j + 1 < i ? v.y : j + 1 == i ? v.y + skip : 0.f;
        }
        a[m][e] = pack<T>(v.x, v.y);
      }
    }
#pragma unroll
    for (int n = 0; n < G; ++n) {
      if (n + 1 < G) in.load_columns(b[(n + 1) % 2], in.x, c, n + 1);
      in.multiply(acc, a, b[n % 2], n);
    }
  }
}

/// One unit's gate and result for the 32 tokens from 32 q on.
template <class Tr>
struct gate_rows {
  using T = typename Tr::element;
  static constexpr int G = Tr::column_groups;
  packed<4> z[2][2][G];

  [[nodiscard]] __device__ static int token(int q, int m, int half) {
    return q * 32 + m * 16 + half * 8 + int(threadIdx.x) % 32 / 4;
  }
  /// Starts the loads: they are under way while the scan's last part is computed.
  __device__ gate_rows(int q, direction_slices<Tr> const& at, int unit, T const* sequence, int length) {
    T const* const from = sequence + at.z() + unit * Tr::columns + int(threadIdx.x) % 4 * 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        T const* const row = from + at.row(min(token(q, m, half), length - 1), length) * Tr::projected;
#pragma unroll
        for (int n = 0; n < G; ++n) z[m][half][n] = *reinterpret_cast<packed<4> const*>(row + n * 16);
      }
  }
  /// g = y silu(z), and each token's sum of squares.
  __device__ void write(float const (&acc)[2][2 * G][4], int q, direction_slices<Tr> const& at, int second, int unit,
                        std::size_t first_row, mixer_core_arguments<T> const& p) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const t = token(q, m, half);
        bool const inside = t < p.length;
        std::size_t const row = 2 * (first_row + std::size_t(at.row(inside ? t : 0, p.length))) + std::size_t(second);
        T* const g = p.g + row * Tr::inner + unit * Tr::columns + lane % 4 * 4;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < G; ++n) {
          float2 const z0 = unpack<T>(z[m][half][n].word[0]), z1 = unpack<T>(z[m][half][n].word[1]);
          float const v[4]{acc[m][2 * n][half * 2] * silu_fast(z0.x), acc[m][2 * n][half * 2 + 1] * silu_fast(z0.y),
                           acc[m][2 * n + 1][half * 2] * silu_fast(z1.x),
                           acc[m][2 * n + 1][half * 2 + 1] * silu_fast(z1.y)};
#pragma unroll
          for (int e = 0; e < 4; ++e) sum = fmaf(v[e], v[e], sum);
          if (inside) *reinterpret_cast<packed<4>*>(g + n * 16) = {{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])}};
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (inside && lane % 4 == 0) p.squares[row * Tr::units + std::size_t(unit)] = sum;
      }
  }
};

/// Eight numbers times a factor, and the norm's weights where there are any, from channel c on.
template <class Tr>
__device__ inline packed<8> scaled(packed<8> x, float factor, float const* norm, int c, bool reversed) {
  using T = typename Tr::element;
  float w[8];
  if (norm != nullptr) {
    float4 const* const from = reinterpret_cast<float4 const*>(norm + (reversed ? Tr::inner - 8 - c : c));
    float4 const low = from[0], high = from[1];
    float const v[8]{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = factor * (reversed ? v[7 - k] : v[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = factor;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    float2 const v = unpack<T>(x.word[k]);
    x.word[k] = pack<T>(v.x * w[2 * k], v.y * w[2 * k + 1]);
  }
  return x;
}

/// Norms the block's rows, which it has made whole and which the caches still hold; `scales` [length] is shared memory.
template <class Tr>
__device__ inline void finish_rows(mixer_core_arguments<typename Tr::element> const& p, std::size_t first_row,
                                   int second, float* scales) {
  constexpr int pieces = Tr::inner / 8, ahead = 4;
  for (int r = int(threadIdx.x); r < p.length; r += Tr::threads) {
    float const* const squares = p.squares + (2 * (first_row + std::size_t(r)) + std::size_t(second)) * Tr::units;
    float sum = 0;
#pragma unroll
    for (int u = 0; u < Tr::units; ++u) sum += squares[u];
    scales[r] = rsqrtf(sum * (1.f / Tr::inner) + 1e-5f);
  }
  __syncthreads();
  bool const reversed = second == 1 && Tr::reverse_channels;
  packed<8>* const g = reinterpret_cast<packed<8>*>(p.g + (2 * first_row + std::size_t(second)) * Tr::inner);
#pragma unroll 1
  for (int first = int(threadIdx.x); first < p.length * pieces; first += ahead * Tr::threads) {
    packed<8> x[ahead];
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < p.length * pieces) x[a] = g[i / pieces * 2 * pieces + i % pieces];
    }
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < p.length * pieces)
        g[i / pieces * 2 * pieces + i % pieces] =
            scaled<Tr>(x[a], scales[i / pieces], p.norm[second], i % pieces * 8, reversed);
    }
  }
}

/// Grid (unit sets, 2, sequences). Warp 4 makes the decays; the others take 32 tokens each, the longest rows on the
/// first four warps and the shortest on the last three, so that a scheduler's two warps have equal work together.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    mixer_core_kernel(__grid_constant__ mixer_core_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  unsigned char* const shared = dynamic_shared();
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, second = int(blockIdx.y);
  int const tiles = (p.length + 15) / 16, pairs = (tiles + 1) / 2;
  int const q = warp < 4 ? pairs - 1 - warp : warp > 4 && warp - 5 < pairs - 4 ? warp - 5 : -1;
  std::size_t const first_row = std::size_t(blockIdx.z) * std::size_t(p.length);
  T const* const sequence = p.zxbcdt + first_row * Tr::projected;
  direction_slices<Tr> const at{second == 1};
  mixer_direction_pointers const& parameters = p.direction[second];
  mixer_core_layout<Tr> const lay{tiles};
  float* const vectors = reinterpret_cast<float*>(shared + lay.vectors);
  int const begin = int(blockIdx.x) * p.units_per_block, end = begin + p.units_per_block;

  fill_state<Tr>(sequence, at, parameters, lay, p.length, shared);
  if (warp == 4) {
    int const head = begin / Tr::per_head;
    float* const cum = vectors + head % 2 * 2 * lay.tokens;
    fill_decay<Tr>(sequence, at, parameters, head, p.length, lay.tokens, cum, cum + lay.tokens);
  }
  __syncthreads();
  std::uint32_t a[Tr::state / 16][2][4];
  if (q >= 0) {
#pragma unroll
    for (int k = 0; k < Tr::state / 16; ++k)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        int const row = min(q * 32 + m * 16 + lane % 16, lay.tokens - 1);
        load_matrix(a[k][m], shared_address(shared) + std::uint32_t(lay.c + state_offset<Tr>(row, 2 * k + lane / 16)));
      }
  }
  __syncthreads();
  if (q >= 0) fill_scores<Tr>(a, q, tiles, lay, shared);
  __syncthreads();

  stage_unit<Tr>(sequence, at, lay, begin, p.length, shared);

#pragma unroll 1
  for (int unit = begin; unit < end; ++unit) {
    int const head = unit / Tr::per_head;
    float* const cum = vectors + head % 2 * 2 * lay.tokens;
    float* const ev = cum + lay.tokens;
    // Loaded before the barrier, so that the wait for them is the wait for the others.
    channel_taps<Tr, 4> const taps{at, at.conv_channel(at.x(), unit * Tr::columns + unit_column<Tr>()), parameters};
    wait_copies<0>();
    __syncthreads();
    fill_unit<Tr>(taps, lay, cum, ev, shared);
    __syncthreads();
    if (unit + 1 < end) stage_unit<Tr>(sequence, at, lay, unit + 1, p.length, shared);
    if (q >= 0) {
      float acc[2][2 * Tr::column_groups][4] = {};
      unit_operands<Tr> const in{q, tiles, lay, shared};
      scan_before<Tr>(acc, q / 2, in, cum);
      scan_own<Tr>(acc, q, tiles, in, lay, cum, ev, parameters.d[at.head(head)]);
      gate_rows<Tr> const gate{q, at, unit, sequence, p.length};
      gate.write(acc, q, at, second, unit, first_row, p);
    } else if (warp == 4 && unit + 1 < end && (unit + 1) / Tr::per_head != head) {
      float* const next = vectors + (head + 1) % 2 * 2 * lay.tokens;
      fill_decay<Tr>(sequence, at, parameters, head + 1, p.length, lay.tokens, next, next + lay.tokens);
    }
  }
  if (p.finish) {
    __syncthreads();
    finish_rows<Tr>(p, first_row, second, vectors);
  }
}

/// Whether the kernel does sequences of this length on this device.
template <class T, mixer_shape M>
bool mixer_core_fits(device_properties const& device, int length) {
  using Tr = mixer_core_traits<T, M>;
  int const tiles = (length + 15) / 16;
  return Tr::possible && tiles <= Tr::most_tiles && mixer_core_layout<Tr>{tiles}.bytes <= device.shared_per_block;
}

/// Whether taps and norms can be read four numbers at a time. A model's can: every tensor of a state starts at 256 bytes.
template <mixer_shape M>
bool mixer_core_aligned(mixer_parameters<M, float const, space::device> const& p) {
  return packets_at<4>(p.forward.conv.data) && packets_at<4>(p.backward.conv.data) &&
         packets_at<4>(p.forward.norm.data) && packets_at<4>(p.backward.norm.data);
}

/// Units a block takes: all, where that fills the device; else fewer, at the price of making S more than once.
inline int units_per_block(int units, int sequences, int multiprocessors) {
  int take = units;
  while (take % 2 == 0 && 2 * sequences * (units / take) < 2 * multiprocessors * 9 / 10) take /= 2;
  return take;
}

/// With `finish`, where a block makes whole rows, g as mixer_core has it, with the norms' weights unless they are views
/// of nothing; true then. Else g before its norm, and squares [B L, 2, units], each unit's sum of g^2: g / sqrt(their
/// sum / inner + 1e-5) norm is what the output projection reads. mixer_core_fits() and mixer_core_aligned() must hold.
template <precision P, mixer_shape M>
bool mixer_core_fused(context<P>& ctx, element<P> const* zxbcdt,
                      mixer_parameters<M, float const, space::device> const& p, element<P>* g, float* squares,
                      int sequences, int length, bool finish) {
  using Tr = mixer_core_traits<element<P>, M>;
  auto const pointers = [](mixer_direction<M, float const, space::device> const& d) {
    return mixer_direction_pointers{d.conv.data, d.conv_bias.data, d.dt_bias.data, d.a_log.data, d.d.data};
  };
  int const take = units_per_block(Tr::units, sequences, ctx.device().multiprocessors);
  bool const whole = finish && take == Tr::units;
  mixer_core_arguments<element<P>> const arguments{zxbcdt,
                                                   g,
                                                   squares,
                                                   {pointers(p.forward), pointers(p.backward)},
                                                   length,
                                                   take,
                                                   {p.forward.norm.data, p.backward.norm.data},
                                                   whole};
  int const bytes = mixer_core_layout<Tr>{(length + 15) / 16}.bytes;
  dim3 const grid(unsigned(Tr::units / take), 2, unsigned(sequences));
  launch("mixer_core", mixer_core_kernel<Tr>, {grid, Tr::threads, std::size_t(bytes)}, ctx.stream(), arguments);
  return whole;
}

}  // namespace dm2::cuda::detail
