/// @file
/// A block of the scan's backward in the quadratic form.
///
/// Its sizes, its shared memory, and what it copies there. See backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_operands.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/ssd/tile.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// How a block computes: 16 warps, of which each of the first 2 (tiles / 2) + 1 has at most `Slots` tiles below the
/// diagonal, whose gradient stays in registers over all heads, and one on it. The free warps behind them copy operands,
/// make the decays, and finish tokens.
template <mixer_shape M, class T, int Slots>
struct backward_quadratic_traits {
  using element = T;
  using sizes = backward_sizes<M>;
  using operands = backward_operands<M, T>;
  /// Whether operands are projected_operands. Then there are always two units' operands in shared memory: no place of
  /// one is a choice, which takes fewer instructions. And since the free warps convolve, the others add up the rows.
  static constexpr bool projected = false;
  static constexpr int warps = 16, threads = 32 * warps, slots = Slots;
  /// Columns of a head at a time: a unit. Every result is a sum over them, or theirs alone.
  static constexpr int slice = widest_slice(sizes::headdim, 64), slices = sizes::headdim / slice;
  static constexpr int units = sizes::per_group * slices, steps = slice / 16, pitch = 2 * slice + 16;
  /// States of B and C at a time.
  static constexpr int part = widest_slice(sizes::state, 64), parts = sizes::state / part;
  static constexpr int part_steps = part / 16, part_pitch = 2 * part + 16;
  /// Parts that are there at a time where a block has room for two units' operands; else one.
  static constexpr int most_buffers = parts < 2 ? parts : 2;
  /// Tiles on the diagonal that the slots suffice for; a warp at least is free.
  static constexpr int most_tiles = 2 * Slots + 1;
  static_assert(most_tiles < warps);
  /// Numbers of a convolution's parameters in shared memory, before there are scores; none where nothing is convolved.
  static constexpr int state_parameters = 0;
};

/// The same from a mixer's projection: 13 tiles, which leave at least three warps free to convolve.
template <mixer_shape M, class T>
struct backward_projected_traits : backward_quadratic_traits<M, T, 6> {
  using operands = projected_operands<M, T>;
  static constexpr bool projected = true;
  static constexpr int state_parameters = 2 * M.d_state * (M.d_conv + 1);
};

/// Byte offsets into a block's shared memory; the scores are at 0, in the order of their tiles' rows. A 16 x 16 tile is
/// four 8 x 8 matrices in the order of an A fragment's registers, transposed: [j, i]. ldmatrix reads it, or its
/// transpose, at 16 bytes a lane.
///
/// Before the first and after the last unit, parts of B and C lie over the operands of the units that are not there yet
/// or any more, and over what is behind them; and behind them dB and dC on their way out.
template <class Tr>
struct backward_quadratic_layout {
  int tiles;       ///< of 16 tokens
  int tokens;      ///< of all tiles
  int unit_parts;  ///< pairs of floats in row_parts of a unit; kept, as the two above, so that nothing computes it
  int stages;      ///< units whose operands are there at a time, 1 or 2
  int operands;    ///< x, then dy of a unit
  int stage;       ///< bytes of a unit's operands
  int shares;      ///< what a warp leaves of a column that another finishes, by the column
  int row_parts;   ///< [stages, tiles below the diagonal, 32 lanes] pairs of floats
  int patches;     ///< [tiles] 16 rows of a part
  int vectors;     ///< decay_vectors, of two units, dt of three
  int sums;        ///< token_sums, of two units
  int around;      ///< [16 warps or rows of tiles, 16] floats: of Gamma over the tiles i after and j before a tile
  int carried;     ///< [tokens] floats: a head's d dt of its slices so far
  int totals;      ///< [free warps, heads] pairs of floats, sums for A and D
  int parameters;  ///< where projected: [heads] pairs of floats, A and D
  int bytes;

  __host__ __device__ backward_quadratic_layout(int length, int units_at_a_time)
      : tiles{(length + 15) / 16},
        tokens{tiles * 16},
        unit_parts{tiles_below(tiles) * 32},
        stages{units_at_a_time},
        operands{most_of(tiles_below(tiles + 1) * fragment_bytes, Tr::state_parameters * 4)},
        stage{2 * rows() * Tr::pitch},
        shares{operands + stages * stage},
        row_parts{shares + tiles / 2 * share_bytes},
        patches{operands + buffers() * part_bytes()} {
    int const units_end = row_parts + stages * unit_parts * 8;
    int const parts_end = patches + tiles * patch_bytes;
    vectors = units_end > parts_end ? units_end : parts_end;
    sums = vectors + 9 * rows() * 4;
    around = sums + 2 * token_sums_bytes();
    carried = around + Tr::warps * 64;
    totals = carried + (Tr::slices > 1 ? rows() * 4 : 0);
    parameters = totals + free_warps() * Tr::sizes::per_group * 8;
    bytes = parameters + (Tr::projected ? Tr::sizes::per_group * 8 : 0);
  }
  static constexpr int share_bytes = Tr::slice * 64;  ///< a warp's accumulators
  __host__ __device__ static constexpr int most_of(int a, int b) { return a > b ? a : b; }
  __host__ __device__ int rows() const { return tokens; }
  /// Warps that have tiles, and the others.
  __host__ __device__ int tile_warps() const { return tiles | 1; }
  __host__ __device__ int free_warps() const { return Tr::warps - tile_warps(); }
  static constexpr int patch_bytes = 16 * Tr::part_pitch;
  /// Parts that are there at a time.
  __host__ __device__ int buffers() const { return stages == 2 ? Tr::most_buffers : 1; }
  /// Of a part of B or C, and of one of B with that of C behind it.
  __host__ __device__ int half_bytes() const { return rows() * Tr::part_pitch; }
  __host__ __device__ int part_bytes() const { return 2 * half_bytes(); }
  __host__ __device__ int token_sums_bytes() const { return 4 * rows() * 4 + Tr::warps * 4; }
};

/// A head's steps and decays, an array of a float a token each. With c the sum of dt A log2(e) up to and with a token,
/// and e that sum at the end of the token's tile:
template <class Tr>
struct decay_vectors {
  float* c;
  float* dt;         ///< which is there for a unit longer than the others
  float* rest;       ///< exp2(e - c), what is left of a token at the end of its tile
  float* rest_step;  ///< times dt

  __device__ decay_vectors(unsigned char* shared, backward_quadratic_layout<Tr> const& at, int unit)
      : c{reinterpret_cast<float*>(shared + at.vectors) + (unit & 1) * 3 * at.rows()},
        dt{reinterpret_cast<float*>(shared + at.vectors) + (6 + unit % 3) * at.rows()},
        rest{c + at.rows()},
        rest_step{rest + at.rows()} {}
};

/// What a unit's tiles leave for its tokens' d dt and the sums for A and D: floats of tokens, then of tiles.
template <class Tr>
struct token_sums {
  float* inside;  ///< of Gamma over i >= t > j inside the token's tile
  float* before;  ///< of Gamma over j in tiles before the token's, with i the token; from the row parts
  float* after;   ///< of Gamma over i in tiles after the token's, with j the token
  float* output;  ///< x . U
  float* skip;    ///< of dy . x

  __device__ token_sums(unsigned char* shared, backward_quadratic_layout<Tr> const& at, int unit)
      : inside{reinterpret_cast<float*>(shared + at.sums + (unit & 1) * at.token_sums_bytes())},
        before{inside + at.rows()},
        after{before + at.rows()},
        output{after + at.rows()},
        skip{output + at.rows()} {}
};

/// A thread's place in the work.
template <class Tr>
struct backward_quadratic_block {
  using traits = Tr;
  using sizes = typename Tr::sizes;
  typename Tr::operands const& p;
  backward_quadratic_layout<Tr> const& at;
  unsigned char* shared;
  int warp, lane;

  __device__ backward_quadratic_block(typename Tr::operands const& all, backward_quadratic_layout<Tr> const& layout,
                                      unsigned char* memory)
      : p{all}, at{layout}, shared{memory}, warp{int(threadIdx.x) >> 5}, lane{int(threadIdx.x) & 31} {}
  /// Whether the next unit's operands come while a unit is computed.
  [[nodiscard]] __device__ bool two_units() const { return Tr::projected || at.stages == 2; }
  [[nodiscard]] __device__ int sequence() const {
    int in_grid = int(blockIdx.x) / sizes::groups;
    if constexpr (Tr::projected) hide(in_grid);  // else it is kept in registers, and with it what begins there
    return in_grid;
  }
  [[nodiscard]] __device__ int set() const {
    return Tr::projected ? int(sequence() >= p.set_size) : sequence() / p.set_size;
  }
  /// The sequence's first row of the projection, which two sets read.
  [[nodiscard]] __device__ std::ptrdiff_t projected_row() const {
    int const own = sequence();
    return std::ptrdiff_t(own >= p.set_size ? own - p.set_size : own) * p.length;
  }
  [[nodiscard]] __device__ int group() const { return int(blockIdx.x) % sizes::groups; }
  /// The row of a token of the sequence.
  [[nodiscard]] __device__ std::size_t row(int token) const {
    return std::size_t(sequence()) * std::size_t(p.length) + std::size_t(token);
  }
  /// Which of the free warps this is; negative where it has tiles.
  [[nodiscard]] __device__ int free_warp() const { return warp - at.tile_warps(); }
  [[nodiscard]] __device__ int head(int unit) const { return group() * sizes::per_group + unit / Tr::slices; }
  [[nodiscard]] __device__ int column(int unit) const {
    return head(unit) * sizes::headdim + unit % Tr::slices * Tr::slice;
  }
  /// A and D of a unit's head.
  [[nodiscard]] __device__ int parameter(int unit) const { return set() * sizes::heads + head(unit); }
  /// A unit's A and D.
  [[nodiscard]] __device__ float rate(int unit) const {
    if constexpr (Tr::projected) return parameters(unit / Tr::slices).x;
    return p.a[parameter(unit)];
  }
  [[nodiscard]] __device__ float skip(int unit) const {
    if constexpr (Tr::projected) return parameters(unit / Tr::slices).y;
    return p.d[parameter(unit)];
  }
  /// A and D of a head of the group, in shared memory.
  [[nodiscard]] __device__ float2& parameters(int head) const {
    return reinterpret_cast<float2*>(shared + at.parameters)[head];
  }
  /// Of the sequence's set, where the scan's operands are made from the projection.
  [[nodiscard]] __device__ scan_front const& front() const { return p.front[set()]; }
  [[nodiscard]] __device__ int own_head(int head) const {
    return front().channels_reversed ? sizes::heads - 1 - head : head;
  }
  /// A unit's x in shared memory.
  [[nodiscard]] __device__ unsigned char* x(int unit) const {
    return shared + at.operands + (two_units() ? unit & 1 : 0) * at.stage;
  }
  [[nodiscard]] __device__ unsigned char* dy(int unit) const { return x(unit) + at.rows() * Tr::pitch; }
  /// A part of B and C in shared memory.
  [[nodiscard]] __device__ unsigned char* part(int part) const {
    return shared + at.operands + part % at.buffers() * at.part_bytes();
  }
  [[nodiscard]] __device__ decay_vectors<Tr> vectors(int unit) const { return {shared, at, unit}; }
  [[nodiscard]] __device__ token_sums<Tr> sums(int unit) const { return {shared, at, unit}; }
  /// The tile (i, j), i >= j.
  [[nodiscard]] __device__ unsigned char* tile(int i, int j) const {
    return shared + (tiles_below(i + 1) + j) * fragment_bytes;
  }
  /// A unit's parts of the sums of Gamma over j, of the tile (i, j) below the diagonal: lane l has those of the rows
  /// 8 (l / 16) + 2 (l % 4) and the next.
  [[nodiscard]] __device__ float2* row_parts(int unit, int i, int j) const {
    return reinterpret_cast<float2*>(shared + at.row_parts) + (two_units() ? unit & 1 : 0) * at.unit_parts +
           (tiles_below(i) + j) * 32;
  }
  /// fragment::left_operand and right_operand. Theirs, through unsigned numbers, take registers that the columns do not
  /// have: 250 us for Tiny's 512 sequences, these 243.
  [[nodiscard]] __device__ std::uint32_t row_operand(int pitch) const {
    return std::uint32_t((lane & 15) * pitch + (lane >> 4) * 16);
  }
  [[nodiscard]] __device__ std::uint32_t column_operand(int pitch) const {
    return std::uint32_t(((lane >> 4) * 8 + (lane & 7)) * pitch + (lane >> 3 & 1) * 16);
  }
};

/// Threads that copy together: this one, and how many there are.
struct copying_threads {
  int own, count;
};
template <class Tr>
__device__ inline copying_threads all_threads() {
  return {int(threadIdx.x), Tr::threads};
}
/// The threads of as many free warps as there are at least, or of `Warps`: this one; those behind them copy nothing.
template <class Tr, int Warps = Tr::warps - Tr::most_tiles>
struct copying_team {
  static constexpr int count = 32 * Warps;
  int own;
};
/// All threads, where they copy between units or before them.
template <class Tr>
__device__ inline auto every_thread() {
  if constexpr (Tr::projected)
    return copying_team<Tr, Tr::warps>{int(threadIdx.x)};
  else
    return all_threads<Tr>();
}

/// Starts the threads' copies of `Width` columns of the sequence, token t of which is `stride` t from `from`; zeros
/// behind its end.
template <int Width, class Tr>
__device__ inline void copy_tokens(backward_quadratic_block<Tr> const& k, copying_threads threads,
                                   typename Tr::element const* from, std::ptrdiff_t stride, unsigned char* to) {
  constexpr int pieces = Width / 8, pitch = 2 * Width + 16;
  hide(threads.own);
  int const each = threads.count / pieces, column = threads.own % pieces * 8, rows = k.at.rows();
  int row = threads.own / pieces;
  if (row >= each) return;
  from += row * stride + column;
  std::uint32_t at = shared_address(to) + std::uint32_t(row * pitch + column * 2);
#pragma unroll 4
  for (; row < rows; row += each) {
    copy_async(at, from, row < k.p.length);
    from += each * stride, at += each * pitch;
  }
}
/// The same by a team, with every copy in line: 5 instructions each, where the loop takes 11.
template <int Width, class Tr, int Warps>
__device__ inline void copy_tokens(backward_quadratic_block<Tr> const& k, copying_team<Tr, Warps> team,
                                   typename Tr::element const* from, std::ptrdiff_t stride, unsigned char* to) {
  constexpr int pieces = Width / 8, pitch = 2 * Width + 16, each = copying_team<Tr, Warps>::count / pieces;
  constexpr int most = (Tr::most_tiles * 16 + each - 1) / each;
  hide(team.own);
  int const row = team.own / pieces, column = team.own % pieces * 8, inside = k.p.length - row;
  if (row >= each) return;
  from += row * stride + column;
  std::ptrdiff_t const step = each * stride;
  std::uint32_t const at = shared_address(to) + std::uint32_t(row * pitch + column * 2);
#pragma unroll
  for (int i = 0; i < most; ++i, from += step)
    if (i * each < inside) copy_async(at + std::uint32_t(i * each * pitch), from);
  if constexpr (each >= 16) {  // one row at most
    if (int const t = k.p.length + row; t < k.at.rows())
      *reinterpret_cast<uint4*>(to + (t * pitch + column * 2)) = uint4{0, 0, 0, 0};
  } else {
    for (int t = k.p.length + row; t < k.at.rows(); t += each)
      *reinterpret_cast<uint4*>(to + (t * pitch + column * 2)) = uint4{0, 0, 0, 0};
  }
}
/// The same of an array's rows.
template <int Width, class Tr, class Threads>
__device__ inline void copy_columns(backward_quadratic_block<Tr> const& k, Threads threads,
                                    typename Tr::element const* from, int stride, unsigned char* to) {
  copy_tokens<Width>(k, threads, from + k.row(0) * std::size_t(stride), stride, to);
}
/// The same of the projection's rows.
template <int Width, class Tr, class Threads>
__device__ inline void copy_projected(backward_quadratic_block<Tr> const& k, Threads threads, int column,
                                      unsigned char* to) {
  constexpr std::ptrdiff_t stride = Tr::sizes::projected;
  std::ptrdiff_t const first = k.projected_row();
  bool const turned = k.front().tokens_reversed;
  copy_tokens<Width>(k, threads, k.p.projection + (turned ? first + k.p.length - 1 : first) * stride + column,
                     turned ? -stride : stride, to);
}

/// Starts the copy of a unit's operands; of x, where it is convolved in the block, of what it is made from.
template <class Tr, class Threads>
__device__ inline void copy_unit(backward_quadratic_block<Tr> const& k, Threads threads, int unit) {
  if constexpr (Tr::projected)
    copy_projected<Tr::slice>(k, threads, k.front().x + k.column(unit), k.x(unit));
  else
    copy_columns<Tr::slice>(k, threads, k.p.x + k.column(unit), k.p.x_stride, k.x(unit));
  copy_columns<Tr::slice>(k, threads, k.p.dy + k.column(unit), k.p.dy_stride, k.dy(unit));
}

/// A lane's dt of a unit: of tokens lane, lane + 32 ...
struct lane_steps {
  static constexpr int run = 8;
  float dt[run];
};
template <class Tr>
__device__ inline lane_steps load_lane_steps(backward_quadratic_block<Tr> const& k, int unit) {
  constexpr int heads = Tr::sizes::heads;
  float const* const from = k.p.dt + k.row(0) * heads + k.head(unit);
  lane_steps to;
#pragma unroll
  for (int i = 0; i < lane_steps::run; ++i) {
    int const token = i * 32 + k.lane;
    if constexpr (Tr::projected)  // what the block itself has written
      to.dt[i] = token < k.p.length ? from[token * heads] : 0.f;
    else
      to.dt[i] = token < k.p.length ? __ldg(from + token * heads) : 0.f;
  }
  return to;
}

/// One warp: a unit's decay_vectors, each lane of 8 neighbouring tokens. As in the forward scan a step counts at most
/// 160.
template <class Tr>
__device__ inline void scan_vectors(backward_quadratic_block<Tr> const& k, int unit, lane_steps const& steps) {
  constexpr int run = lane_steps::run;
  decay_vectors<Tr> const to{k.shared, k.at, unit};
  float const rate = k.rate(unit) * log2_e;
  float dt[run], c[run], rest[run], rest_step[run], sum = 0;
#pragma unroll
  for (int i = 0; i < run; ++i)  // neighbouring lanes have read neighbouring tokens, and exchange them in shared memory
    if (i * 32 + k.lane < k.at.rows()) to.dt[i * 32 + k.lane] = steps.dt[i];
  __syncwarp();
  int const t0 = k.lane * run;
  bool const inside = t0 < k.at.rows();
#pragma unroll
  for (int i = 0; i < run; i += 4) {
    float4 const v = inside ? *reinterpret_cast<float4 const*>(to.dt + t0 + i) : float4{0, 0, 0, 0};
    dt[i] = v.x, dt[i + 1] = v.y, dt[i + 2] = v.z, dt[i + 3] = v.w;
  }
#pragma unroll
  for (int i = 0; i < run; ++i) c[i] = sum += fmaxf(dt[i] * rate, -160.f);
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    float const lower = __shfl_up_sync(~0u, sum, o);
    if (k.lane >= o) sum += lower;
  }
  float before = __shfl_up_sync(~0u, sum, 1);
  if (k.lane == 0) before = 0;
#pragma unroll
  for (int i = 0; i < run; ++i) c[i] += before;
  float const end = __shfl_sync(~0u, c[run - 1], k.lane | 1);
#pragma unroll
  for (int i = 0; i < run; ++i) rest[i] = exp2_fast(end - c[i]), rest_step[i] = rest[i] * dt[i];
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < run; i += 4) {
    *reinterpret_cast<float4*>(to.c + t0 + i) = {c[i], c[i + 1], c[i + 2], c[i + 3]};
    *reinterpret_cast<float4*>(to.rest + t0 + i) = {rest[i], rest[i + 1], rest[i + 2], rest[i + 3]};
    *reinterpret_cast<float4*>(to.rest_step + t0 + i) = {rest_step[i], rest_step[i + 1], rest_step[i + 2],
                                                         rest_step[i + 3]};
  }
}

}  // namespace dm2::cuda::detail::ssd
