/// @file
/// A block of the scan's backward in chunks.
///
/// Its sizes, its shared memory, its place in the work, and what it copies. See backward_chunked.cuh.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_operands.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// How chunks of 64 tokens are computed. A unit is a part of a head's columns: every result is a sum over them, or
/// theirs alone. A unit's state is in 16 x 16 tiles, columns by N, each in the order of an A fragment's registers:
/// ldmatrix reads a tile or its transpose without a gap between rows. Of a head that 16 does not divide a unit has
/// zeros behind its columns, which give zeros everywhere: 24 are computed as 32.
///
/// Staggered: a team begins a unit while the other finishes the one before (backward_chunked_staggered.cuh).
template <mixer_shape M, class T, bool Staggered = false>
struct backward_chunk_traits {
  using element = T;
  using sizes = backward_sizes<M>;
  using operands = backward_operands<M, T>;
  static constexpr int threads = 256, tiles = ssd_tile / 16, state = sizes::state, depth = state / 16;
  static constexpr int width = widest_slice(sizes::headdim, 64, sizes::headdim % 16 == 0 ? 16 : 8);  ///< of a unit
  static constexpr int slices = sizes::headdim / width, slice = (width + 15) / 16 * 16, steps = slice / 16;
  static constexpr int units = sizes::per_group * slices, pitch = 2 * slice + 16, row_pitch = 2 * state + 16;
  static constexpr int state_bytes = depth * steps * fragment_bytes;
  static constexpr int sum_sets = Staggered ? 2 : 1;     ///< units whose sums for da are there at a time
  static constexpr int vector_sets = Staggered ? 4 : 2;  ///< units whose decays are; a power of two
  /// Blocks of a multiprocessor: 128 registers a thread hold the sums for dB and dC of 128 states, not of more.
  static constexpr int resident = state <= 128 ? 2 : 1;
};

/// Scratch: the states of a slice of the sequences, or of several, and sums of all sequences. A unit is counted over
/// all groups, units of all groups to a chunk, chunks to a sequence.
struct backward_chunk_scratch {
  unsigned char* entering;  ///< [sequences, chunks, units, state_bytes], states that enter chunks; none for the first
  unsigned char* leaving;   ///< the same, gradients of the states that leave chunks; none for the last
  float *da, *d;            ///< [all sequences, chunks, H], chunks' sums for A and D

  backward_chunk_scratch(arena& a, std::size_t states, std::size_t sums)
      : entering{a.take<unsigned char>(states)},
        leaving{a.take<unsigned char>(states)},
        da{a.take<float>(sums)},
        d{a.take<float>(sums)} {}
  /// The same with another slice's states, so many bytes behind these.
  [[nodiscard]] backward_chunk_scratch behind(std::size_t bytes) const {
    backward_chunk_scratch other = *this;
    other.entering += bytes, other.leaving += bytes;
    return other;
  }
};

/// Byte offsets into a block's shared memory; the scores C B^T are at 0. Tiles (i, j), i >= j, are in the order of
/// rows.
template <class Tr>
struct backward_chunk_layout {
  static constexpr int tile_count = Tr::tiles * (Tr::tiles + 1) / 2, below = tile_count - Tr::tiles;
  static constexpr int decayed = tile_count * fragment_bytes;  ///< the unit's scores with their decay, as the scores
  static constexpr int gradient = 2 * decayed;                 ///< of the scores, float, in the order of accumulators
  static constexpr int b = gradient + tile_count * 1024, c = b + ssd_tile * Tr::row_pitch;
  static constexpr int states = c + ssd_tile * Tr::row_pitch;      ///< the unit's that enters, then the one that leaves
  static constexpr int vectors_at = states + 2 * Tr::state_bytes;  ///< chunk_vectors, vector_sets times
  static constexpr int own_sums =
      vectors_at + Tr::vector_sets * 16 * ssd_tile;  ///< sum_sets [2, 64] floats: as in the quadratic form
  static constexpr int row_sums = own_sums + Tr::sum_sets * 8 * ssd_tile;  ///< [tiles below the diagonal, 16] floats
  static constexpr int later = row_sums + Tr::sum_sets * 64 * below;       ///< [64] floats, exp(c_i) dy_i . (C_i h)
  static constexpr int tile_sums = later + Tr::sum_sets * 4 * ssd_tile;    ///< chunk_tile_sums
  static constexpr int totals =
      tile_sums + Tr::sum_sets * 3 * 4 * Tr::tiles;  ///< [4 tiles, heads] pairs of floats, for A and D
  static constexpr int operands = totals + (Tr::tiles * Tr::sizes::per_group * 8 + 15) / 16 * 16;
  static constexpr int stage = 2 * ssd_tile * Tr::pitch;  ///< x, then dy of a unit

  int stages;  ///< units whose x and dy are there at a time, 1 or 2
  int bytes;

  __host__ __device__ explicit constexpr backward_chunk_layout(int units_at_a_time)
      : stages{units_at_a_time}, bytes{operands + stages * stage} {}
  __host__ __device__ static constexpr int rows() { return ssd_tile; }
};

/// A head's steps and decays, a float a token each: as decay_vectors, c from the chunk's start.
struct chunk_vectors {
  float *c, *dt;
  float* rest;       ///< exp2(e - c), what is left of a token at the end of its 16
  float* rest_step;  ///< times dt
};

/// Sums over each 16 tokens, for da of the tokens before or after them.
template <class Tr>
struct chunk_tile_sums {
  float later[Tr::tiles];    ///< exp(c_i) dy_i . (C_i h)
  float earlier[Tr::tiles];  ///< dt_j exp(end - c_j) x_j . (dh B_j)
  float through[Tr::tiles];  ///< parts of <h, dh>
};

/// A thread's place in the work: two teams of four warps, warp `warp` of each for the tokens 16 warp ... of the chunk.
/// The first team has W, dG and dC, the second U, dx, the sums for da and dB.
template <class Tr>
struct backward_chunk_block {
  using traits = Tr;
  using sizes = typename Tr::sizes;
  typename Tr::operands const& p;
  backward_chunk_layout<Tr> const& at;
  unsigned char* shared;
  int warp, lane;
  bool second;   ///< of the second team
  int before;    ///< rows of the grid that do other work
  int sequence;  ///< counted over all
  int set;       ///< of A and D, times H

  __device__ backward_chunk_block(typename Tr::operands const& all, backward_chunk_layout<Tr> const& layout,
                                  unsigned char* memory, int first, int before_ = 0)
      : p{all},
        at{layout},
        shared{memory},
        warp{int(threadIdx.x) >> 5 & 3},
        lane{int(threadIdx.x) & 31},
        second{threadIdx.x >= 128},
        before{before_},
        sequence{first + int(blockIdx.y) - before},
        set{sequence / p.set_size * sizes::heads} {}
  [[nodiscard]] __device__ int group() const { return int(blockIdx.x) % sizes::groups; }
  [[nodiscard]] __device__ int chunk() const { return int(blockIdx.x) / sizes::groups; }
  [[nodiscard]] __device__ int chunks() const { return int(gridDim.x) / sizes::groups; }
  /// The chunk, counted over the scratch's sequences.
  [[nodiscard]] __device__ int in_slice() const { return (int(blockIdx.y) - before) * chunks() + chunk(); }
  /// Whether the chunk has one before it.
  [[nodiscard]] __device__ bool enters() const { return chunk() > 0; }
  /// Whether it has one behind it.
  [[nodiscard]] __device__ bool leaves() const { return chunk() + 1 < chunks(); }
  [[nodiscard]] __device__ int tokens() const { return min(ssd_tile, p.length - chunk() * ssd_tile); }
  /// The row of a token of the chunk.
  [[nodiscard]] __device__ std::size_t row(int token) const {
    return std::size_t(sequence) * std::size_t(p.length) + std::size_t(chunk() * ssd_tile + token);
  }
  [[nodiscard]] __device__ int head(int unit) const { return group() * sizes::per_group + unit / Tr::slices; }
  [[nodiscard]] __device__ int column(int unit) const {
    return head(unit) * sizes::headdim + unit % Tr::slices * Tr::width;
  }
  /// A and D of a unit's head.
  [[nodiscard]] __device__ int parameter(int unit) const { return set + head(unit); }
  [[nodiscard]] __device__ unsigned char* x(int unit) const {
    return shared + at.operands + (at.stages == 2 ? unit & 1 : 0) * at.stage;
  }
  [[nodiscard]] __device__ unsigned char* dy(int unit) const { return x(unit) + ssd_tile * Tr::pitch; }
  [[nodiscard]] __device__ chunk_vectors vectors(int unit) const {
    float* const c = floats(at.vectors_at) + (unit & (Tr::vector_sets - 1)) * 4 * ssd_tile;
    return {c, c + ssd_tile, c + 2 * ssd_tile, c + 3 * ssd_tile};
  }
  [[nodiscard]] __device__ unsigned char* tile(int from, int i, int j) const {
    return shared + from + (i * (i + 1) / 2 + j) * fragment_bytes;
  }
  [[nodiscard]] __device__ chunk_tile_sums<Tr>& tile_sums(int unit) const {
    return reinterpret_cast<chunk_tile_sums<Tr>*>(shared + at.tile_sums)[set_of(unit)];
  }
  [[nodiscard]] __device__ float* own_sums(int unit) const { return floats(at.own_sums) + set_of(unit) * 2 * ssd_tile; }
  [[nodiscard]] __device__ float* row_sums(int unit) const {
    return floats(at.row_sums) + set_of(unit) * 16 * at.below;
  }
  [[nodiscard]] __device__ float* later(int unit) const { return floats(at.later) + set_of(unit) * ssd_tile; }
  [[nodiscard]] __device__ static int set_of(int unit) { return unit & (Tr::sum_sets - 1); }
  [[nodiscard]] __device__ float* floats(int from) const { return reinterpret_cast<float*>(shared + from); }
  /// The tile's sums for A and D of a unit's head.
  [[nodiscard]] __device__ float2& totals(int unit) const {
    return reinterpret_cast<float2*>(shared + at.totals)[warp * sizes::per_group + unit / Tr::slices];
  }
  [[nodiscard]] __device__ std::uint32_t row_operand(int pitch) const {
    return std::uint32_t(fragment::left_operand(unsigned(lane), pitch));
  }
  [[nodiscard]] __device__ std::uint32_t column_operand(int pitch) const {
    return std::uint32_t(fragment::right_operand(unsigned(lane), pitch));
  }
};

/// How `Threads` threads share the pieces of 16 bytes of a chunk's rows of `Columns` numbers: `lanes` of them a row, at
/// least two, so that they read whole sectors of 32 bytes where rows begin at one; then the rows `each` further on.
template <int Columns, int Threads>
struct chunk_pieces {
  static constexpr int count = Columns / 8, pitch = 2 * Columns + 16, lanes = count & -count, each = Threads / lanes;
  int row, piece;  ///< the thread's first

  __device__ explicit chunk_pieces(int thread) : row{thread / lanes}, piece{thread % lanes} {
    static_assert(count % 2 == 0 && Threads % lanes == 0);
  }
  /// Whether the thread has any.
  [[nodiscard]] __device__ bool any() const { return each <= ssd_tile || row < ssd_tile; }
  /// Bytes to the first.
  [[nodiscard]] __device__ int at() const { return row * pitch + piece * 16; }
};

/// Starts the copy of `Width` columns of a chunk's tokens by a team of `Threads` threads to rows of `Columns`, zeros
/// behind them and behind its `tokens`; `from` is at the chunk's first. A thread's copies are at constant distances:
/// they take about four instructions each, where a loop had 13.
template <int Width, int Threads, int Columns = Width, class T>
__device__ inline void copy_chunk(T const* from, int stride, int tokens, unsigned char* to,
                                  int thread = int(threadIdx.x)) {
  using pieces = chunk_pieces<Columns, Threads>;
  hide(thread);  // else what depends on it is kept in registers from one call to the next
  pieces const mine{thread};
  if (!mine.any()) return;
  std::uint32_t const at = shared_address(to) + std::uint32_t(mine.at());
  from += std::size_t(mine.row) * std::size_t(stride) + mine.piece * 8;
#pragma unroll
  for (int i = 0; i < ssd_tile; i += pieces::each, from += std::ptrdiff_t{pieces::each} * stride) {
    bool const inside = mine.row + i < tokens;
#pragma unroll
    for (int n = 0; n < pieces::count; n += pieces::lanes)
      copy_async(at + std::uint32_t(i * pieces::pitch + n * 16), from + n * 8,
                 inside && (Width == Columns || (n + mine.piece) * 8 < Width));
  }
}

/// Starts the copy of a unit's state by a team of `Threads` threads.
template <class Tr, int Threads>
__device__ inline void copy_state(unsigned char const* from, unsigned char* to, int thread) {
  hide(thread);
  std::uint32_t const at = shared_address(to) + std::uint32_t(thread * 16);
  from += thread * 16;
#pragma unroll
  for (int i = 0; i < Tr::state_bytes; i += Threads * 16)
    if (i + Threads * 16 <= Tr::state_bytes || i + thread * 16 < Tr::state_bytes)
      copy_async(at + std::uint32_t(i), from + i);
}

/// Starts the copy of a unit's x and dy, by the block or a team of it.
template <class Tr, int Threads = Tr::threads>
__device__ inline void copy_unit(backward_chunk_block<Tr> const& k, int unit) {
  std::size_t row = k.row(0);
  int thread = int(threadIdx.x);
  if constexpr (Threads != Tr::threads) {
    hide(row);  // else addresses are kept in registers from unit to unit
    thread %= Threads;
  }
  copy_chunk<Tr::width, Threads, Tr::slice>(k.p.x + row * std::size_t(k.p.x_stride) + k.column(unit), k.p.x_stride,
                                            k.tokens(), k.x(unit), thread);
  copy_chunk<Tr::width, Threads, Tr::slice>(k.p.dy + row * std::size_t(k.p.dy_stride) + k.column(unit), k.p.dy_stride,
                                            k.tokens(), k.dy(unit), thread);
}

/// A unit's place in the scratch of states, in bytes.
template <class Tr>
[[nodiscard]] __device__ inline std::size_t state_place(backward_chunk_block<Tr> const& k, int unit) {
  return ((std::size_t(k.in_slice()) * Tr::sizes::groups + std::size_t(k.group())) * Tr::units + std::size_t(unit)) *
         Tr::state_bytes;
}

/// Starts the copy of a unit's state that enters and of the gradient of the one that leaves.
template <class Tr>
__device__ inline void copy_states(backward_chunk_block<Tr> const& k, backward_chunk_scratch const& s, int unit) {
  std::size_t const place = state_place(k, unit);
  unsigned char* const to = k.shared + k.at.states;
  int const thread = int(threadIdx.x);
  if (k.enters()) copy_state<Tr, Tr::threads>(s.entering + place, to, thread);
  if (k.leaves()) copy_state<Tr, Tr::threads>(s.leaving + place, to + Tr::state_bytes, thread);
}

/// One warp: a unit's chunk_vectors.
template <class Tr>
__device__ inline void scan_vectors(backward_chunk_block<Tr> const& k, int unit) {
  chunk_vectors const to = k.vectors(unit);
  float2 const dt =
      load_steps<typename Tr::sizes>(k.p.dt + k.row(0) * Tr::sizes::heads, k.head(unit), 2 * k.lane, k.tokens());
  float2* const c = reinterpret_cast<float2*>(to.c) + k.lane;
  float const rate = k.p.a[k.parameter(unit)] * log2_e;
  float const low = fmaxf(dt.x * rate, -160.f), both = low + fmaxf(dt.y * rate, -160.f);  // as in the forward scan
  float const sum = sum_up_to_lane(both, k.lane);
  float before = __shfl_up_sync(~0u, sum, 1);
  if (k.lane == 0) before = 0;
  float const end = __shfl_sync(~0u, sum, k.lane | 7);
  float2 const rest{exp2_fast(end - (before + low)), exp2_fast(end - sum)};
  *c = {before + low, sum};
  reinterpret_cast<float2*>(to.dt)[k.lane] = dt;
  reinterpret_cast<float2*>(to.rest)[k.lane] = rest;
  reinterpret_cast<float2*>(to.rest_step)[k.lane] = {rest.x * dt.x, rest.y * dt.y};
}

}  // namespace dm2::cuda::detail::ssd
