/// @file
/// The mixer between its projections as one kernel: convolution, SiLU, scan and gate of one direction of one sequence a
/// block, for sequences of at most 224 tokens in 16-bit numbers; segments.cuh has longer ones.
///
/// The kernel itself, tensor_kernel(), is taken where packed.cuh's fits less often on a multiprocessor, since that one
/// keeps the taps of all heads of a group in shared memory, 12 bytes a channel (in half 20). On an A100 or H200, with
/// heads of 48 or 64 channels and a state of 128, it is not taken up to 1,280 channels a group in bfloat16 and 768 in
/// half; on an H200 in bfloat16 with 1,536 it is for 177 to 192 tokens, with 4,096 for 129 to 192. The rest of this
/// page packed.cuh and segments.cuh use as well.
///
/// The scan is the quadratic form of state-space duality. S = C B^T is made once for all heads and kept in shared
/// memory as fragments of the tensor cores. Tokens go in blocks of 64: for an earlier block J, exp(c_i - c_j) is split
/// at e_J, the decay's sum at J's end, so that S multiplies X'_j = dt_j exp(e_J - c_j) x_j as it is; inside a block the
/// difference is taken before exp. Both factors of the split are at most 1.
///
/// The gated RMSNorm needs the sum of squares over all heads. A block that has made whole rows norms them at its end,
/// while the cache still has them; or the kernel leaves what is to be normed and the sums, and the reader applies the
/// rest: the output projection commutes with a factor a row.
///
/// 14 warps of 72 registers, two blocks a multiprocessor: a warp has 16 tokens. The kernel waits, for shared memory
/// above all, so it wants many warps: 8 of 32 tokens and 128 registers took 229 us for 256 sequences of 197 tokens,
/// these 185.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/fill.cuh>
#include <dm2/cuda/mixer_core/gate.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::mixer_core {

// The scan: the scores of 16 tokens, decayed, times x, on the tensor cores.

/// What a warp needs to multiply its tile's row of S with x or X'.
template <class Tr>
struct unit_operands {
  using T = typename Tr::inside;
  static constexpr int G = Tr::column_groups;
  unsigned char const* scores;  ///< the warp's row of tiles, this lane's part
  std::uint32_t x, scaled;      ///< this lane's place in the first tile

  __device__ unit_operands(unsigned char const* of_scores, std::uint32_t of_x)
      : scores{of_scores}, x{of_x}, scaled{of_x} {}
  __device__ unit_operands(int r, layout<Tr> const& lay, unsigned char const* shared) {
    int const lane = thread_here() % 32;
    scores = shared + lay.scores + r * (r + 1) / 2 * 512 + lane * 16;
    std::uint32_t const matrix = shared_address(shared) + std::uint32_t(fragment::left_operand(lane, Tr::pitch));
    x = matrix + std::uint32_t(lay.x);
    scaled = matrix + std::uint32_t(lay.scaled);
  }
  __device__ void load_scores(std::uint32_t (&a)[4], int c) const {
    uint4 const v = *reinterpret_cast<uint4 const*>(scores + c * 512);
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  }
  __device__ void load_columns(std::uint32_t (&b)[4], std::uint32_t from, int c, int n) const {
    load_matrix_transposed(b, from + std::uint32_t(c * 16 * Tr::pitch + n * 32));
  }
  __device__ static void multiply(float (&acc)[2 * G][4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[4],
                                  int n) {
    mma<T>(acc[2 * n], a, b[0], b[1]);
    mma<T>(acc[2 * n + 1], a, b[2], b[3]);
  }
  /// acc += a x for the 16 tokens of tile c.
  __device__ void multiply_tile(float (&acc)[2 * G][4], std::uint32_t const (&a)[4], std::uint32_t from, int c) const {
    std::uint32_t b[G][4];
#pragma unroll
    for (int n = 0; n < G; ++n) load_columns(b[n], from, c, n);
#pragma unroll
    for (int n = 0; n < G; ++n) multiply(acc, a, b[n], n);
  }
};

/// Scores of tile c, as fragments, times factors of its columns, which are there in pairs of 16-bit numbers.
template <class Tr>
__device__ inline void scale_columns(std::uint32_t (&a)[4], int c, unsigned char const* factors) {
  using T = typename Tr::element;
  std::uint32_t const* const pair = reinterpret_cast<std::uint32_t const*>(factors) + c * 8 + thread_here() % 4;
  std::uint32_t const low = pair[0], high = pair[4];
  a[0] = multiply_pairs<T>(a[0], low), a[1] = multiply_pairs<T>(a[1], low);
  a[2] = multiply_pairs<T>(a[2], high), a[3] = multiply_pairs<T>(a[3], high);
}

/// What the blocks of 64 tokens before the warp's own add to its rows, decayed to the own block's start. Where a state
/// is carried, acc begins with what it adds, decayed to the first block's start, and the scores take the factors dt_j
/// exp(e_J - c_j) that X' has else.
template <class Tr>
__device__ inline void scan_before(float (&acc)[2 * Tr::column_groups][4], int own, unit_operands<Tr> const& in,
                                   float const* cum, unsigned char const* factors) {
#pragma unroll 1
  for (int block = 0; block < own; ++block) {
    if (Tr::carries || block > 0) {
      float const decay = exp2_fast(cum[block * 64 + 63] - (block > 0 ? cum[block * 64 - 1] : 0.f));
#pragma unroll
      for (int n = 0; n < 2 * Tr::column_groups; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[n][e] *= decay;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::uint32_t a[4];
      in.load_scores(a, block * 4 + i);
      if constexpr (Tr::carries) scale_columns<Tr>(a, block * 4 + i, factors);
      in.multiply_tile(acc, a, in.scaled, block * 4 + i);
    }
  }
}

/// Scores of a tile as they come, as fragments, times dt_j exp(c_i - c_j), of two columns of a row.
template <class T>
__device__ inline float2 decayed(std::uint32_t scores, float at_row, float2 to) {
  float2 v = unpack<T>(scores);
  v.x *= exp2_fast(at_row - to.x);
  v.y *= exp2_fast(at_row - to.y);
  return v;
}

/// The warp's own block of 64 tokens, up to each row's own token, whose skip term is added to its score.
template <class Tr>
__device__ inline void scan_own(float (&acc)[2 * Tr::column_groups][4], int r, unit_operands<Tr> const& in,
                                float const* cum, float const* ev, float skip) {
  using T = typename Tr::element;
  int const lane = thread_here() % 32, row = fragment::row(lane), column = fragment::column(lane), own = r / 4;
  float const low = cum[r * 16 + row], high = cum[r * 16 + 8 + row];
  if (Tr::carries || own > 0) {
    float const start = own > 0 ? cum[own * 64 - 1] : 0.f, f[2]{exp2_fast(low - start), exp2_fast(high - start)};
#pragma unroll
    for (int n = 0; n < 2 * Tr::column_groups; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[n][e] *= f[e / 2];
  }
  std::uint32_t a[4];
  auto const columns = [&](int c, int half) {
    return *reinterpret_cast<float2 const*>(ev + c * 16 + half * 8 + column);
  };
#pragma unroll 1
  for (int c = own * 4; c < r; ++c) {
    in.load_scores(a, c);
#pragma unroll
    for (int e = 0; e < 4; ++e) {  // row half e % 2, column half e / 2
      float2 const v = decayed<T>(a[e], e % 2 == 0 ? low : high, columns(c, e / 2));
      a[e] = pack<T>(v.x, v.y);
    }
    in.multiply_tile(acc, a, in.x, c);
  }
  in.load_scores(a, r);
  auto const edge = [&](float2 v) {  // tokens after the row's own do not count; the skip term's x is not decayed
    v.x = column < row ? v.x : column == row ? v.x + skip : 0.f;
    v.y = column + 1 < row ? v.y : column + 1 == row ? v.y + skip : 0.f;
    return pack<T>(v.x, v.y);
  };
  a[0] = edge(decayed<T>(a[0], low, columns(r, 0)));
  float2 const below = decayed<T>(a[1], high, columns(r, 0));
  a[1] = pack<T>(below.x, below.y);
  a[2] = 0;
  a[3] = edge(decayed<T>(a[3], high, columns(r, 1)));
  in.multiply_tile(acc, a, in.x, r);
}

// The results: gate, squares, and the norm where a block has made whole rows.

/// One unit's gate and result for the 16 tokens of the sequence's tile r. Word n of a row belongs to the n-th eight
/// columns of the accumulators.
template <class Tr>
struct gate_rows {
  using T = typename Tr::element;
  static constexpr int words = 2 * Tr::column_groups, wide = 4 * Tr::wide_groups;
  std::uint32_t z[2][words];

  [[nodiscard]] __device__ static int token(int r, int half, int lane) { return r * 16 + fragment::row(lane, half); }
  /// The unit's column at which this lane's words from n on begin.
  [[nodiscard]] __device__ static int column(int n, int lane) {
    return n * 8 + fragment::quarter(lane) * (n < wide ? 8 : 4);
  }
  /// Whether this lane's words from n on, a whole access, are channels.
  [[nodiscard]] __device__ static bool real(int n, int lane) { return !Tr::padded || column(n, lane) < Tr::width; }

  __device__ gate_rows() {}
  __device__ gate_rows(int r, direction_slices<Tr> const& at, int unit, T const* sequence, int length) {
    int const lane = thread_here() % 32;
    T const* const from = sequence + at.z() + unit * Tr::width;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      load(half, from + at.row(min(token(r, half, lane), length - 1), length) * Tr::projected, lane);
  }
  /// z of one of the lane's rows.
  __device__ void load(int half, T const* row, int lane) {
#pragma unroll
    for (int n = 0; n < wide; n += 4) {
      uint4 v{};
      if (real(n, lane)) v = *reinterpret_cast<uint4 const*>(row + column(n, lane));
      z[half][n] = v.x, z[half][n + 1] = v.y, z[half][n + 2] = v.z, z[half][n + 3] = v.w;
    }
#pragma unroll
    for (int n = wide; n < words; n += 2) {
      uint2 v{};
      if (real(n, lane)) v = *reinterpret_cast<uint2 const*>(row + column(n, lane));
      z[half][n] = v.x, z[half][n + 1] = v.y;
    }
  }
  /// g = y silu(z) of one of the lane's rows, rounded; the squares of this lane's part are added to `sum`.
  __device__ void gate(std::uint32_t (&out)[words], float const (&acc)[words][4], int half, int lane,
                       float& sum) const {
#pragma unroll
    for (int n = 0; n < words; ++n) {
      float2 const gate = unpack<T>(z[half][n]);
      float const first = acc[n][half * 2] * gate_silu(gate.x), next = acc[n][half * 2 + 1] * gate_silu(gate.y);
      if (real(n < wide ? n & ~3 : n & ~1, lane)) sum = fmaf(first, first, fmaf(next, next, sum));
      out[n] = pack<T>(first, next);
    }
  }
  /// This lane's part of one row of g.
  __device__ static void store(std::uint32_t const (&out)[words], T* row, int lane) {
#pragma unroll
    for (int n = 0; n < wide; n += 4)
      if (real(n, lane))
        __stcg(reinterpret_cast<uint4*>(row + column(n, lane)), uint4{out[n], out[n + 1], out[n + 2], out[n + 3]});
#pragma unroll
    for (int n = wide; n < words; n += 2)
      if (real(n, lane)) __stcg(reinterpret_cast<uint2*>(row + column(n, lane)), uint2{out[n], out[n + 1]});
  }
  /// g = y silu(z); the squares of this lane's part of each row are added to `sums`.
  __device__ void write(float const (&acc)[words][4], int r, direction_slices<Tr> const& at, int unit,
                        std::size_t first_row, arguments<T> const& p, float (&sums)[2]) const {
    int const lane = thread_here() % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t out[words];
      gate(out, acc, half, lane, sums[half]);
      int const t = token(r, half, lane);
      if (t >= p.length) continue;
      std::size_t const row = 2 * (first_row + std::size_t(at.row(t, p.length))) + std::size_t(at.second());
      store(out, p.g + row * Tr::inner + unit * Tr::width, lane);
    }
  }
};

/// The squares' sums of a tile's rows over the units [begin, end), which the four lanes of a row have in parts: to
/// their first place in `squares`, zeros to the others; or, where `scales` is not null, what norms the rows to scales
/// [tokens], the first of which is of token `start`, and to p.factors.
template <class Tr>
__device__ inline void write_sums(float (&sums)[2], int r, direction_slices<Tr> const& at, int begin, int end,
                                  std::size_t first_row, arguments<typename Tr::element> const& p, int start,
                                  float* scales) {
  int const lane = int(threadIdx.x) % 32, part = fragment::quarter(lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float const sum = sum_over_row(sums[half]);
    int const t = gate_rows<Tr>::token(r, half, lane);
    if (t >= p.length) continue;
    std::size_t const row = 2 * (first_row + std::size_t(at.row(t, p.length))) + std::size_t(at.second());
    if (scales != nullptr) {
      if (part != 0) continue;
      float const factor = factor_of_squares<Tr::group>(sum);
      scales[t - start] = factor;
      if (p.factors != nullptr) p.factors[row * Tr::groups + std::size_t(begin / Tr::group_units)] = factor;
      continue;
    }
    for (int u = begin + part; u < end; u += 4) p.squares[row * Tr::units + std::size_t(u)] = u == begin ? sum : 0.f;
  }
}

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
    for (int k = 0; k < 8; ++k) w[k] = weighted<T>(factor, reversed ? v[7 - k] : v[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = factor;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    float2 const v = unpack<T>(x.v[k]);
    x.v[k] = pack<T>(v.x * w[2 * k], v.y * w[2 * k + 1]);
  }
  return x;
}

/// Norms a group's channels of `count` tokens from `start` on, which the block has made and which the caches still
/// hold; `scales` [count] is shared memory, in the order of the direction's tokens.
template <class Tr>
__device__ inline void finish_rows(arguments<typename Tr::element> const& p, direction_slices<Tr> const& at,
                                   std::size_t first_row, int group, int start, int count, float const* scales) {
  constexpr int pieces = Tr::group / 8, pitch = 2 * Tr::inner / 8, ahead = 4;
  bool const reversed = at.channels_reversed;
  int const top = at.tokens_reversed ? p.length - start - count : start;  // of the rows, in memory's order
  packed<8>* const g =
      reinterpret_cast<packed<8>*>(p.g + (2 * (first_row + std::size_t(top)) + std::size_t(at.second())) * Tr::inner) +
      group * pieces;
#pragma unroll 1
  for (int first = int(threadIdx.x); first < count * pieces; first += ahead * Tr::threads) {
    packed<8> x[ahead];
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < count * pieces) x[a] = g[i / pieces * pitch + i % pieces];
    }
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < count * pieces)
        g[i / pieces * pitch + i % pieces] = scaled<Tr>(x[a], scales[at.row(i / pieces, count)], p.norm[at.second()],
                                                        (group * pieces + i % pieces) * 8, reversed);
    }
  }
}

/// The tile that warp w has, another for each, negative where there is none left: longest rows first, the second four
/// warps in the other order, since a scheduler has every fourth warp.
__device__ inline int tile_of_warp(int warp, int tiles) { return warp / 4 == 1 ? tiles - 12 + warp : tiles - 1 - warp; }

/// What a block does: units [begin, end) of one direction of one sequence.
template <class Tr>
struct whole_place {
  using T = typename Tr::element;
  direction_slices<Tr> at;
  layout<Tr> lay;
  int tiles, tile;  ///< of 16 tokens: how many, and the warp's, negative where it has none
  int begin, end, group;
  std::size_t first_row;
  T const* sequence;
  float* decays;  ///< of all heads

  __device__ explicit whole_place(arguments<T> const& p)
      : at{blockIdx.y == 1},
        lay{(p.length + 15) / 16},
        tiles{(p.length + 15) / 16},
        tile{tile_of_warp(int(threadIdx.x) / 32, tiles)},
        begin{int(blockIdx.x) * p.units_per_block},
        end{begin + p.units_per_block},
        group{Tr::groups == 1 ? 0 : begin / Tr::group_units},
        first_row{std::size_t(blockIdx.z) * std::size_t(p.length)},
        sequence{p.zxbcdt + first_row * Tr::projected},
        decays{p.decays + (blockIdx.z * std::size_t{2} + blockIdx.y) * std::size_t(Tr::heads * 2 * lay.tokens)} {}
  [[nodiscard]] __device__ float* decays_of(int unit) const { return decays + unit / Tr::per_head * 2 * lay.tokens; }
};

/// The scores of the sequence to shared memory, its decays to memory; fill_states() makes B and C.
template <class Tr, class FillStates>
__device__ inline void prepare_whole(arguments<typename Tr::element> const& p, whole_place<Tr> const& k,
                                     direction_pointers const& parameters, unsigned char* shared,
                                     FillStates const& fill_states) {
  fill_states();
  __syncthreads();
  state_rows<Tr> c;
  if (k.tile >= 0) load_state_rows<Tr>(c, k.tile, k.lay, shared);
  __syncthreads();
  if (k.tile >= 0) fill_scores<Tr>(c, k.tile, k.lay, shared);
  int const rank = k.tile + Tr::warps - k.tiles;  // the shortest rows' warps make the decays meanwhile
  fill_decays<Tr>(k.sequence, k.at, parameters, rank, {k.begin / Tr::per_head, (k.end - 1) / Tr::per_head}, 0, p.length,
                  k.lay.tokens, k.decays_of(k.begin));
  __syncthreads();
}

/// Grid (unit sets of all groups, 2, sequences).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    tensor_kernel(__grid_constant__ arguments<typename Tr::element> const p) {
  unsigned char* const shared = dynamic_shared();
  whole_place<Tr> const k{p};
  direction_pointers const& parameters = p.direction[blockIdx.y];
  float* const vectors = reinterpret_cast<float*>(shared + k.lay.vectors);
  prepare_whole(p, k, parameters, shared,
                [&] { fill_state<Tr>(k.sequence, k.at, parameters, k.lay, k.group, 0, p.length, shared); });
  auto const stage = [&](int unit) {
    stage_unit<Tr>(k.sequence, k.at, k.lay, unit, 0, p.length, k.decays_of(unit), shared);
  };
  stage(k.begin);
  float sums[2] = {};
#pragma unroll 1
  for (int unit = k.begin; unit < k.end; ++unit) {
    float const* const cum = vectors + unit % 2 * 2 * k.lay.tokens;
    float const* const ev = cum + k.lay.tokens;
    // Loaded before the barrier, so that the wait for them is the wait for the others.
    int const thread = thread_here();
    unit_columns<Tr> const own{thread};
    channel_taps<Tr> const taps{k.at, k.at.conv_channel(k.at.x(), unit * Tr::width + own.first), own.gap, parameters};
    wait_copies<0>();
    __syncthreads();
    fill_unit<Tr>(thread, own, taps, k.lay, cum, ev, shared);
    __syncthreads();
    if (unit + 1 < k.end) stage(unit + 1);
    if (k.tile >= 0) {
      float acc[2 * Tr::column_groups][4] = {};
      unit_operands<Tr> const in{k.tile, k.lay, shared};
      scan_before<Tr>(acc, k.tile / 4, in, cum, nullptr);
      scan_own<Tr>(acc, k.tile, in, cum, ev, parameters.d[k.at.head(unit / Tr::per_head)]);
      gate_rows<Tr> const gate{k.tile, k.at, unit, k.sequence, p.length};
      gate.write(acc, k.tile, k.at, unit, k.first_row, p, sums);
    }
  }
  if (p.finish) __syncthreads();  // the decays' place is free
  if (k.tile >= 0) write_sums<Tr>(sums, k.tile, k.at, k.begin, k.end, k.first_row, p, 0, p.finish ? vectors : nullptr);
  if (p.finish) {
    __syncthreads();
    finish_rows<Tr>(p, k.at, k.first_row, k.group, 0, p.length, vectors);
  }
}

/// Whether the kernel does sequences of this length on this device.
template <class T, mixer_shape M>
bool whole_fits(device_properties const& device, int length) {
  using Tr = traits<T, M>;
  int const tiles = (length + 15) / 16;
  return Tr::possible && tiles <= Tr::most_tiles && layout<Tr>{tiles}.bytes <= device.shared_per_block;
}

/// Whether taps and norms can be read four numbers at a time. A model's can: every tensor of a state starts at 256
/// bytes.
template <mixer_shape M>
bool aligned(mixer_parameters<M, float const, space::device> const& p) {
  return packets_at<4>(p.forward.conv.data) && packets_at<4>(p.backward.conv.data) &&
         packets_at<4>(p.forward.norm.data) && packets_at<4>(p.backward.norm.data);
}

/// Units of its `units` a block takes, one for each group and sequence: all, where that fills the device; else fewer,
/// at the price of making S more than once.
inline int units_per_block(int units, int sequences, int multiprocessors) {
  int take = units;
  while (take % 2 == 0 && 2 * sequences * (units / take) < 2 * multiprocessors * 9 / 10) take /= 2;
  return take;
}

/// The kernels' arguments; `take` units a block.
template <precision P, mixer_shape M>
arguments<element<P>> arguments_of(element<P> const* zxbcdt, mixer_parameters<M, float const, space::device> const& p,
                                   element<P>* g, scratch<element<P>, M> const& scratch, int length, int take,
                                   bool finish) {
  return {.zxbcdt = zxbcdt,
          .g = g,
          .squares = scratch.squares,
          .decays = scratch.decays,
          .direction = {pointers_of(p.forward), pointers_of(p.backward)},
          .length = length,
          .units_per_block = take,
          .norm = {p.forward.norm.data, p.backward.norm.data},
          .finish = finish && take == traits<element<P>, M>::group_units,
          .factors = scratch.factors};
}

/// Sequences in one segment: see launch_tensor(). whole_fits() must hold.
template <precision P, mixer_shape M>
bool launch_whole(context<P>& ctx, element<P> const* zxbcdt, mixer_parameters<M, float const, space::device> const& p,
                  element<P>* g, scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  using Tr = traits<element<P>, M>;
  int const take = units_per_block(Tr::group_units, sequences * Tr::groups, ctx.device().multiprocessors);
  auto const arguments = arguments_of<P, M>(zxbcdt, p, g, scratch, length, take, finish);
  int const bytes = layout<Tr>{(length + 15) / 16}.bytes;
  dim3 const grid(unsigned(Tr::units / take), 2, unsigned(sequences));
  launch("mixer_core", tensor_kernel<Tr>, {grid, Tr::threads, std::size_t(bytes)}, ctx.stream(), arguments);
  return arguments.finish;
}

}  // namespace dm2::cuda::detail::mixer_core
