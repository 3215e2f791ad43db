/// @file
/// The mixer core on tensor cores for any length: the state is carried between segments.
///
/// A block walks the segments of one direction of one sequence for some units of a group. Inside a segment of at most
/// 144 tokens everything is as in the kernel for short sequences (tensor.cuh), with two products more:
///     y_i += exp(c_i) C_i s                 rows of C stay in a warp's registers
///     s' = exp(c_last) s + sum_j dt_j exp(c_last - c_j) B_j x_j^T     a warp has 16 states of all columns
/// Units run inside a segment, since they share B, C and the scores, so the states of all of them wait between
/// segments, in memory that the L2 cache holds: rounded, as the product with C takes them. In float they were 52 MB for
/// Tiny, more than the cache has, and took a fifth of the kernel's time. Scaled x, which the kernel for short sequences
/// keeps beside x, is made by scaling scores instead: its place is B's, and two blocks still fit on a multiprocessor.
///
/// 8 warps of 128 registers, two blocks a multiprocessor. A ninth tile of tokens, where it saves a segment, is the last
/// warp's second: 256 sequences of 257 tokens take 273 us with it and 340 without.
///
/// Blocks stay on their multiprocessors and go from sequence to sequence, so that the states in memory are few. Where
/// sequences are too few to fill the device, runs of segments go to blocks of their own in three phases: each run's
/// state from zero, a scan over the runs, and the outputs from each run's true state.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/mixer_core/carried_state.cuh>
#include <dm2/cuda/mixer_core/packed.cuh>
#include <dm2/cuda/mixer_core/tensor.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

namespace dm2::cuda::detail::mixer_core {

/// The constants of the kernel for segments.
template <class T, mixer_shape M>
struct segment_traits : traits<T, M> {
  using base = traits<T, M>;
  static constexpr bool carries = true;
  static constexpr int warps = 8, threads = 32 * warps, most_tiles = warps + 1;  ///< the last warp takes two
  static constexpr int state_tiles = base::state / 16;
  static constexpr int unit_vectors = base::state * base::columns / 8;  ///< 16 bytes each, of a unit's state in memory
  static_assert(state_tiles <= warps);
};

template <class T>
struct segment_arguments {
  arguments<T> core;
  uint4* memory;  ///< [gridDim.x, block_vectors]: a block's states [units_per_block, unit_vectors], its decays
  int sequences, segment_tiles, block_vectors;
  int runs, run_tokens;  ///< of a sequence; whole segments
  uint4* ends;           ///< [sequences, 2, units, runs, unit_vectors]: what runs leave, then what they begin with
  float* totals;         ///< [sequences, 2, units, runs], log2 of what a run leaves of the state before it
};

/// One block's place in the work, and the segment that it is at; without Output, a run's last state is all that it
/// makes. It lies in shared memory: in registers, beside the rows of C, the compiler would spill it, and the cache that
/// spilled numbers go through is what shared memory leaves, too small for them.
template <class Tr, bool Output>
struct segment {
  using T = typename Tr::element;
  using arguments = segment_arguments<T>;
  static constexpr int bytes = 128;  ///< of shared memory that it has
  layout<Tr> lay;
  int tiles;                    ///< of 16 tokens
  int second, begin, end;       ///< direction and units
  int run, first, stop, start;  ///< tokens: of the run, and the segment's first
  unsigned index;               ///< direction + 2 sequence

  __device__ segment(arguments const& p, unsigned work, int segment) : lay{0} {
    unsigned const sets = unsigned(Tr::units / p.core.units_per_block), runs = unsigned(p.runs - (Output ? 0 : 1));
    begin = int(work % sets) * p.core.units_per_block, end = begin + p.core.units_per_block;
    second = int(work / sets % 2), run = int(work / sets / 2 % runs);
    index = work / sets / 2 / runs * 2 + unsigned(second);
    first = run * p.run_tokens, stop = min(first + p.run_tokens, p.core.length);
    start = first + segment * 16 * p.segment_tiles;
    tiles = min(p.segment_tiles, (stop - start + 15) / 16);
    lay = layout<Tr>{tiles};
  }
  [[nodiscard]] __device__ direction_slices<Tr> at() const { return direction_slices<Tr>{second == 1}; }
  [[nodiscard]] __device__ int group() const { return Tr::groups == 1 ? 0 : begin / Tr::group_units; }
  [[nodiscard]] __device__ std::size_t first_row(arguments const& p) const {
    return std::size_t(index / 2) * std::size_t(p.core.length);
  }
  [[nodiscard]] __device__ T const* sequence(arguments const& p) const {
    return p.core.zxbcdt + first_row(p) * Tr::projected;
  }
  /// The warp's tile of a unit's state; none from state_tiles on.
  [[nodiscard]] __device__ static int state_tile() { return Tr::warps - 1 - thread_here() / 32; }
  /// The warp's tile of tokens, none where it is negative; the last warp has tile 0 as well where there are more than
  /// warps.
  [[nodiscard]] __device__ int row_tile() const { return tiles - 1 - thread_here() / 32; }
  [[nodiscard]] __device__ bool has_two() const { return tiles > Tr::warps && row_tile() == 1; }
  [[nodiscard]] __device__ uint4* own(arguments const& p) const {
    return p.memory + blockIdx.x * std::size_t(p.block_vectors);
  }
  /// The decays of a unit's head.
  [[nodiscard]] __device__ float* decays(arguments const& p, int unit) const {
    return reinterpret_cast<float*>(own(p) + p.core.units_per_block * Tr::unit_vectors) +
           (unit / Tr::per_head - begin / Tr::per_head) * 2 * lay.tokens;
  }
  [[nodiscard]] __device__ std::size_t place(arguments const& p, int unit) const {
    return (std::size_t(index) * Tr::units + std::size_t(unit)) * std::size_t(p.runs) + std::size_t(run);
  }
  /// Where a unit's state between two segments, or runs, is.
  [[nodiscard]] __device__ uint4* state(arguments const& p, int unit, bool between_runs) const {
    return between_runs ? p.ends + place(p, unit) * Tr::unit_vectors : own(p) + (unit - begin) * Tr::unit_vectors;
  }
  /// Whether a state enters the segment, and whether one is to leave it.
  [[nodiscard]] __device__ bool enters() const { return start > first || (Output && run > 0); }
  [[nodiscard]] __device__ bool leaves() const { return !Output || start + lay.tokens < stop; }
};

/// The scores of the segment, and `c`, the warp's rows of C; a second tile's stay in shared memory.
template <class Tr>
__device__ inline void score_segment(segment<Tr, true> const& k, unsigned char* shared, state_rows<Tr>& c) {
  int const r = k.row_tile();
  uint4* const other = reinterpret_cast<uint4*>(shared + k.lay.rows) + threadIdx.x % 32;
  if (k.has_two()) {
    load_state_rows<Tr>(c, 0, k.lay, shared);
#pragma unroll
    for (int i = 0; i < Tr::state / 16; ++i) other[i * 32] = {c[i][0], c[i][1], c[i][2], c[i][3]};
  }
  if (r >= 0) load_state_rows<Tr>(c, r, k.lay, shared);
  __syncthreads();
  if (r >= 0) fill_scores<Tr>(c, r, k.lay, shared);
  if (k.has_two()) {
    state_rows<Tr> first;
#pragma unroll
    for (int i = 0; i < Tr::state / 16; ++i) {
      uint4 const v = other[i * 32];
      first[i][0] = v.x, first[i][1] = v.y, first[i][2] = v.z, first[i][3] = v.w;
    }
    fill_scores<Tr>(first, 0, k.lay, shared);
  }
}

/// B and the scores of the segment's tokens to shared memory, their decays to memory.
template <class Tr, bool Output>
__device__ inline void prepare_segment(segment_arguments<typename Tr::element> const& p, segment<Tr, Output> const& k,
                                       unsigned char* shared, state_rows<Tr>& c) {
  direction_pointers const& parameters = p.core.direction[k.second];
  fill_state<Tr>(k.sequence(p), k.at(), parameters, k.lay, k.group(), k.start, p.core.length, shared);
  if constexpr (Output) {
    __syncthreads();
    score_segment(k, shared, c);
  }
  int const rank = Tr::warps - 1 - int(threadIdx.x) / 32;  // the shortest rows' warps make the decays meanwhile
  fill_decays<Tr>(k.sequence(p), k.at(), parameters, rank, {k.begin / Tr::per_head, (k.end - 1) / Tr::per_head},
                  k.start, p.core.length, k.lay.tokens, k.decays(p, k.begin));
  __syncthreads();
}

/// y of the 16 tokens of tile r of a unit, gated.
template <class Tr, class Rows>
__device__ inline void scan_rows(segment_arguments<typename Tr::element> const& p, segment<Tr, true> const& k,
                                 unsigned char const* shared, int unit, int r, Rows const& rows, float const* cum,
                                 float (&sums)[2]) {
  gate_rows<Tr> const gate{k.start / 16 + r, k.at(), unit, k.sequence(p), p.core.length};  // comes during the products
  float acc[2 * Tr::column_groups][4] = {};
  if (k.enters()) scan_carried<Tr>(acc, rows, k.lay, shared);
  unit_operands<Tr> const in{r, k.lay, shared};
  scan_before<Tr>(acc, r / 4, in, cum, shared + k.lay.factors);
  scan_own<Tr>(acc, r, in, cum, cum + k.lay.tokens, p.core.direction[k.second].d[k.at().head(unit / Tr::per_head)]);
  gate.write(acc, k.start / 16 + r, k.at(), unit, k.first_row(p), p.core, sums);
}

/// y of the warp's tokens of a unit, gated.
template <class Tr>
__device__ inline void scan_tokens(segment_arguments<typename Tr::element> const& p, segment<Tr, true> const& k,
                                   unsigned char const* shared, int unit, state_rows<Tr> const& c, float const* cum,
                                   float (&sums)[2][2]) {
  if (int const r = k.row_tile(); r >= 0)
    scan_rows<Tr>(
        p, k, shared, unit, r,
        [&](int i) {
          return uint4{c[i][0], c[i][1], c[i][2], c[i][3]};
        },
        cum, sums[0]);
  if (k.has_two()) {
    uint4 const* const other = reinterpret_cast<uint4 const*>(shared + k.lay.rows) + thread_here() % 32;
    scan_rows<Tr>(
        p, k, shared, unit, 0, [&](int i) { return other[i * 32]; }, cum, sums[1]);
  }
}

/// The warp's tile of a unit's state, from the segment's start to its end.
template <class Tr, bool Output>
__device__ inline void carry_state(segment_arguments<typename Tr::element> const& p, segment<Tr, Output> const& k,
                                   unsigned char const* shared, int unit, float const* cum) {
  int const tile = k.state_tile();
  if (tile >= Tr::state_tiles || !k.leaves()) return;
  float const total = cum[k.lay.tokens - 1];
  int const part = tile * Tr::column_groups * 32 + thread_here() % 32;
  carried_state<Tr> s = {};
  if (k.enters()) load_carried<Tr>(s, reinterpret_cast<uint4 const*>(shared + k.lay.state) + part, exp2_fast(total));
  update_carried<Tr>(s, tile, k.lay, shared);
  store_carried<Tr>(s, k.state(p, unit, !Output && k.start + k.lay.tokens >= k.stop) + part);
  if (!Output && part == 0) {
    float* const to = p.totals + k.place(p, unit);
    *to = (k.start > k.first ? *to : 0.f) + total;
  }
}

/// What norms the segment's rows, or the rows normed; `vectors` is free shared memory once all warps are here.
template <class Tr>
__device__ inline void norm_segment(segment_arguments<typename Tr::element> const& p, segment<Tr, true> const& k,
                                    float (&sums)[2][2], float* vectors) {
  bool const finish = p.core.finish;
  auto const write = [&](float(&own)[2], int r) {
    write_sums<Tr>(own, k.start / 16 + r, k.at(), k.begin, k.end, k.first_row(p), p.core, k.start,
                   finish ? vectors : nullptr);
  };
  if (finish) __syncthreads();
  if (k.row_tile() >= 0) write(sums[0], k.row_tile());
  if (k.has_two()) write(sums[1], 0);
  if (!finish) return;
  __syncthreads();
  finish_rows<Tr>(p.core, k.at(), k.first_row(p), k.group(), k.start, min(k.lay.tokens, p.core.length - k.start),
                  vectors);
}

/// All units of the segment.
template <class Tr, bool Output>
__device__ inline void run_segment(segment_arguments<typename Tr::element> const& p, segment<Tr, Output> const& k,
                                   unsigned char* shared) {
  state_rows<Tr> c;
  prepare_segment(p, k, shared, c);
  auto const stage = [&](int unit) {
    stage_unit<Tr>(k.sequence(p), k.at(), k.lay, unit, k.start, p.core.length, k.decays(p, unit), shared);
  };
  stage(k.begin);
  float sums[2][2] = {};
#pragma unroll 1
  for (int unit = k.begin; unit < k.end; ++unit) {
    float const* const cum = reinterpret_cast<float*>(shared + k.lay.vectors) + unit % 2 * 2 * k.lay.tokens;
    int const thread = thread_here();
    unit_columns<Tr> const own{thread};
    channel_taps<Tr> const taps{k.at(), k.at().conv_channel(k.at().x(), unit * Tr::width + own.first), own.gap,
                                p.core.direction[k.second]};
    wait_copies<0>();
    __syncthreads();
    if (k.enters()) stage_carried<Tr>(thread, k.state(p, unit, k.start == k.first), k.lay, shared);
    fill_factors<Tr>(Tr::threads - 1 - thread, k.lay, cum, cum + k.lay.tokens,
                     shared);  // the last warps convolve least
    fill_unit<Tr>(thread, own, taps, k.lay, cum, cum + k.lay.tokens, shared);
    wait_copies<0>();
    __syncthreads();
    if (unit + 1 < k.end) stage(unit + 1);
    if constexpr (Output) scan_tokens(p, k, shared, unit, c, cum, sums);
    carry_state(p, k, shared, unit, cum);
  }
  if constexpr (Output) norm_segment(p, k, sums, reinterpret_cast<float*>(shared + k.lay.vectors));
}

/// Work: unit set of all groups + unit sets (direction + 2 (run + runs sequence)). Output: g. Else what the runs but
/// the last leave of a state from zero.
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, 2)
    segments_kernel(__grid_constant__ segment_arguments<typename Tr::element> const p) {
  using segment_type = segment<Tr, Output>;
  static_assert(sizeof(segment_type) <= segment_type::bytes);
  unsigned char* const shared = dynamic_shared();
  segment_type* const k = reinterpret_cast<segment_type*>(shared);
  unsigned const runs = unsigned(p.runs - (Output ? 0 : 1));
  unsigned const count = unsigned(Tr::units / p.core.units_per_block) * 2u * runs * unsigned(p.sequences);
#pragma unroll 1
  for (unsigned work = blockIdx.x; work < count; work += gridDim.x) {
    int segment = 0;
    do {
      __syncthreads();  // the segment ahead is done with
      if (threadIdx.x == 0) new (k) segment_type{p, work, segment};
      __syncthreads();
      run_segment(p, *k, shared + segment_type::bytes);
      ++segment;
    } while (k->start + 16 * p.segment_tiles < k->stop);
  }
}

/// From what each run leaves of a state from zero, the state that each begins with, in place. Thread: eight numbers of
/// a unit's state.
template <class Tr>
__global__ void __launch_bounds__(32) runs_kernel(uint4* ends, float const* totals, int runs) {
  using T = typename Tr::element;
  uint4* const at =
      ends + std::size_t(blockIdx.y) * std::size_t(runs) * Tr::unit_vectors + blockIdx.x * 32 + threadIdx.x;
  totals += std::size_t(blockIdx.y) * std::size_t(runs);
  float2 state[4]{};
#pragma unroll 4
  for (int run = 0; run < runs; ++run) {
    bool const last = run + 1 == runs;  // it has left none
    uint4 const v = last ? uint4{} : at[std::size_t(run) * Tr::unit_vectors];
    float const d = last ? 0.f : exp2_fast(totals[run]);
    at[std::size_t(run) * Tr::unit_vectors] = {pack<T>(state[0].x, state[0].y), pack<T>(state[1].x, state[1].y),
                                               pack<T>(state[2].x, state[2].y), pack<T>(state[3].x, state[3].y)};
    std::uint32_t const word[4]{v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const left = unpack<T>(word[i]);
      state[i] = {fmaf(state[i].x, d, left.x), fmaf(state[i].y, d, left.y)};
    }
  }
}

/// Shared memory of a block whose segments have n tiles of 16 tokens.
template <class Tr>
int segment_bytes(int n) {
  return segment<Tr, true>::bytes + layout<Tr>{n}.bytes;
}

/// Tiles of 16 tokens that a segment of sequences of `length` tokens has on this device: few enough for two blocks a
/// multiprocessor, unless a block alone has more than twice as many; a tile more than there are warps where that saves
/// a segment. The last segment is what is left: sharing the tiles out evenly would leave warps idle in every segment. 0
/// where there is no such kernel.
template <class T, mixer_shape M>
int segment_tiles(device_properties const& device, int length) {
  using Tr = segment_traits<T, M>;
  if (!Tr::possible) return 0;
  auto const most = [](auto const& holds) {
    int n = Tr::most_tiles;
    while (n > 0 && !holds(segment_bytes<Tr>(n))) --n;
    return n;
  };
  int const one = most([&](int bytes) { return bytes <= device.shared_per_block; });
  int const two = most([&](int bytes) { return 2 * (bytes + 1024) <= device.shared_per_sm; });
  int const take = 2 * two >= one ? two : one, tiles = (length + 15) / 16;
  auto const segments = [&](int n) { return (tiles + n - 1) / n; };
  return take > Tr::warps && segments(take) == segments(Tr::warps) ? std::min(Tr::warps, tiles) : std::min(take, tiles);
}

/// Whether the kernel does sequences of any length on this device.
template <class T, mixer_shape M>
bool segments_fit(device_properties const& device) {
  return segment_tiles<T, M>(device, 1) != 0;
}

/// How the kernels are launched for so many sequences of one length. Runs cost a second pass over B and x, so that a
/// device at least half full is left with whole sequences.
template <class T, mixer_shape M>
struct segment_plan {
  using traits = segment_traits<T, M>;
  int take;              ///< units a block
  int tiles, bytes;      ///< of a segment, and of its shared memory
  int runs, run_tokens;  ///< of a sequence
  unsigned walks;        ///< of all sequences, a run of some units each
  unsigned blocks;       ///< no more than the device holds
  int block_vectors;     ///< of scratch of a block, 16 bytes each
  std::size_t ends;      ///< states between runs

  segment_plan(device_properties const& device, int sequences, int length)
      : take{units_per_block(traits::group_units, sequences * traits::groups, device.multiprocessors)},
        tiles{segment_tiles<T, M>(device, length)},
        bytes{segment_bytes<traits>(tiles)} {
    int const slots = (2 * (bytes + 1024) <= device.shared_per_sm ? 2 : 1) * device.multiprocessors;
    int const whole = traits::units / take * 2 * sequences, segments = (length + 16 * tiles - 1) / (16 * tiles);
    int const wanted = whole == 0 || 2 * whole > slots ? 1 : std::min(segments, slots / whole);
    int const each = (segments + wanted - 1) / wanted;
    runs = (segments + each - 1) / each, run_tokens = each * 16 * tiles;
    walks = unsigned(whole) * unsigned(runs), blocks = std::min(walks, unsigned(slots));
    block_vectors = take * traits::unit_vectors + std::max(1, take / traits::per_head) * 2 * 16 * tiles / 4;
    ends = runs == 1 ? 0 : std::size_t(sequences) * 2 * traits::units * std::size_t(runs);
  }
  /// Vectors of scratch: the blocks', the ends, and their decays.
  [[nodiscard]] std::size_t states() const {
    return std::size_t(blocks) * std::size_t(block_vectors) + ends * traits::unit_vectors + (ends + 3) / 4;
  }
};

/// Sequences in segments: see launch_tensor(). segments_fit() must hold; scratch.states has room for the
/// plan's, which is made for these sizes.
template <precision P, mixer_shape M>
bool launch_segments(context<P>& ctx, segment_plan<element<P>, M> const& plan, element<P> const* zxbcdt,
                     mixer_parameters<M, float const, space::device> const& p, element<P>* g,
                     scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  using Tr = segment_traits<element<P>, M>;
  uint4* const ends = scratch.states + std::size_t(plan.blocks) * std::size_t(plan.block_vectors);
  float* const totals = reinterpret_cast<float*>(ends + plan.ends * Tr::unit_vectors);
  segment_arguments<element<P>> const arguments{
      .core = arguments_of<P, M>(zxbcdt, p, g, scratch, length, plan.take, finish),
      .memory = scratch.states,
      .sequences = sequences,
      .segment_tiles = plan.tiles,
      .block_vectors = plan.block_vectors,
      .runs = plan.runs,
      .run_tokens = plan.run_tokens,
      .ends = ends,
      .totals = totals};
  auto const walk = [&](auto const& kernel, unsigned blocks) {
    prefer_shared("mixer_core: segments", kernel);
    launch("mixer_core: segments", kernel, {blocks, Tr::threads, std::size_t(plan.bytes)}, ctx.stream(), arguments);
  };
  if (plan.runs > 1) {
    walk(segments_kernel<Tr, false>, std::min(plan.blocks, plan.walks / unsigned(plan.runs) * unsigned(plan.runs - 1)));
    launch("mixer_core: states of runs", runs_kernel<Tr>,
           {dim3(Tr::unit_vectors / 32, unsigned(2 * Tr::units * sequences)), 32}, ctx.stream(), ends, totals,
           plan.runs);
  }
  walk(segments_kernel<Tr, true>, plan.blocks);
  return arguments.core.finish;
}

/// Whether there is a tensor-core kernel for sequences of this length on this device.
template <class T, mixer_shape M>
bool fits(device_properties const& device, int length) {
  return one_segment<T, M>(device, length) || segments_fit<T, M>(device);
}

/// 16 bytes each, of scratch that the kernels for these sizes carry states in: for Tiny 12 KB a head and block,
/// 27 MB on 132 multiprocessors; none for sequences in one segment.
template <class T, mixer_shape M>
std::size_t state_packets(device_properties const& device, int sequences, int length) {
  if (one_segment<T, M>(device, length)) return 0;
  return segment_plan<T, M>{device, sequences, length}.states();
}

/// With `finish`, where a block makes whole rows of a group, g as mixer_core has it, with the norms' weights unless
/// they are views of nothing, and scratch.factors unless they are null; true then. Else g before its norm, and
/// scratch.squares, which sum up to the g^2 of a row's group: g / sqrt(their sum / group + 1e-5) norm is what the
/// output projection reads. fits() and aligned() must hold, and scratch.states have state_packets().
template <precision P, mixer_shape M>
bool launch_tensor(context<P>& ctx, element<P> const* zxbcdt, mixer_parameters<M, float const, space::device> const& p,
                   element<P>* g, scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  if (one_segment<element<P>, M>(ctx.device(), length))
    return launch_one_segment<P, M>(ctx, zxbcdt, p, g, scratch, sequences, length, finish);
  segment_plan<element<P>, M> const plan{ctx.device(), sequences, length};
  return launch_segments<P, M>(ctx, plan, zxbcdt, p, g, scratch, sequences, length, finish);
}

}  // namespace dm2::cuda::detail::mixer_core
