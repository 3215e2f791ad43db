/// @file
/// A block of the scan's chunked form for a Hopper.
///
/// Its sizes, its shared memory, its place in the work, the decays of a unit's chunks, the copies that fill its two
/// stages, and where y goes. See chunked_hopper.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/ssd/chunked.cuh>
#include <dm2/cuda/ssd/tile.cuh>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// What the kernel reads and writes.
template <class T>
struct chunked_hopper_arguments {
  arguments<T> plain;
  tensor_map x, b, c;  ///< [sequences, length, columns]: tiles of 64 tokens and 64 columns
};

/// How a block computes, and byte offsets into its shared memory: two stages, what each unit has, the decays of two
/// chunks.
template <class Sizes>
struct chunked_hopper_traits {
  using sizes = Sizes;
  using element = typename Sizes::element;
  static constexpr int teams = 4, team_threads = 128, threads = teams * team_threads;
  static constexpr int parts = std::max(Sizes::d_state / 64, 1);  // of the state: 64 rows each
  static constexpr int slice = widest_slice(Sizes::headdim, std::clamp(96 / parts / 16 * 16, 16, 64));
  static constexpr int pieces = slice / 8, sums = slice / 2;  // sums: a thread's of 64 rows
  using unit = ssd_unit<Sizes, slice>;
  static constexpr int state_vectors = parts * sums / 4 * team_threads;
  /// Sizes that the kernel is for: 128 registers hold the state, the scores or y, and addresses.
  static constexpr bool possible = Sizes::d_state % 64 == 0 && Sizes::d_state <= 128 && Sizes::headdim % 16 == 0;

  static constexpr int tile_bytes = ssd_tile * 128, alignment = 1024;
  static constexpr int b = 0, c = parts * tile_bytes, x = 2 * parts * tile_bytes;
  static constexpr int stages = 2, stage_bytes = x + teams * tile_bytes, unit_begin = stages * stage_bytes;
  static constexpr int weighted = 0, state = tile_bytes, state_part = slice * 128;
  static constexpr int unit_bytes = state + parts * state_part;
  static constexpr int decays_begin = unit_begin + teams * unit_bytes;
  static constexpr int decays_bytes = 3 * ssd_tile * 4;  // of a chunk and team
  static constexpr int bytes = decays_begin + 2 * teams * decays_bytes + alignment;
  /// Blocks that a multiprocessor holds: of 512 threads of 128 registers.
  static constexpr int resident(int) { return 1; }
  /// Rows of x that a warp goes through at once, a piece of 16 bytes a lane.
  static constexpr int rows_at_once = std::min(16, int(std::bit_floor(unsigned(32 / pieces))));
};

/// The decays of a chunk's tokens in shared memory, as exponents of 2 or factors.
struct hopper_decays {
  float* first;

  /// c_t, c_t - log2(dt_t), dt_t exp2(c_63 - c_t), and c_63.
  [[nodiscard]] __device__ float* row() const { return first; }
  [[nodiscard]] __device__ float* column() const { return first + ssd_tile; }
  [[nodiscard]] __device__ float* weight() const { return first + 2 * ssd_tile; }
  [[nodiscard]] __device__ float last() const { return first[ssd_tile - 1]; }
};

/// One block's place in the work, seen from one of its threads.
template <class Tr>
struct chunked_hopper_block {
  using T = typename Tr::element;
  using sizes = typename Tr::sizes;
  arguments<T> const& p;
  unsigned char* shared;
  int team, warp, lane;  ///< warp: of the team
  int run, place;        ///< place: the unit, counted over all sequences
  bool active;  ///< false where the last block has a team too many: it repeats the last unit and writes nothing
  int sequence, group, first, last;  ///< first, last: chunks
  typename Tr::unit u;

  __device__ chunked_hopper_block(arguments<T> const& all, chunk_runs<T> const& runs, unsigned char* memory)
      : p{all}, shared{memory}, lane{int(threadIdx.x) & 31}, u{0, 0} {
    constexpr int unit_blocks = (Tr::unit::count + Tr::teams - 1) / Tr::teams;
    int const of_block = __shfl_sync(~0u, int(threadIdx.x) >> 5, 0);  // so the compiler knows that lanes agree
    team = of_block >> 2, warp = of_block & 3;
    int const at = int(blockIdx.x) / unit_blocks;
    sequence = at / sizes::groups / runs.count, group = at % sizes::groups;
    run = at / sizes::groups % runs.count;
    first = run * runs.chunks, last = min(first + runs.chunks, (p.length + ssd_tile - 1) / ssd_tile);
    take(team);
  }
  /// The unit of a team.
  __device__ void take(int of) {
    constexpr int unit_blocks = (Tr::unit::count + Tr::teams - 1) / Tr::teams;
    int const wanted = int(blockIdx.x) % unit_blocks * Tr::teams + of, unit = min(wanted, Tr::unit::count - 1);
    active = wanted == unit;
    place = (sequence * sizes::groups + group) * Tr::unit::count + unit;
    u = typename Tr::unit{group, unit};
  }

  /// The sequence's first token.
  [[nodiscard]] __device__ std::size_t before() const { return std::size_t(sequence) * std::size_t(p.length); }
  /// What the unit has.
  [[nodiscard]] __device__ int own() const { return Tr::unit_begin + team * Tr::unit_bytes; }
  /// Of a chunk, `step` from the first.
  [[nodiscard]] __device__ hopper_decays decays(int step) const {
    return {reinterpret_cast<float*>(shared + Tr::decays_begin + (step % 2 * Tr::teams + team) * Tr::decays_bytes)};
  }
  /// Bytes from a tile's first to the lane's first piece of x, and to each further one, `rows_at_once` rows on.
  [[nodiscard]] __device__ int piece(int rows) const {
    int const row = lane / Tr::pieces;
    return (warp * 16 + row + rows) * 128 + ((lane % Tr::pieces ^ row ^ rows) & 7) * 16;
  }
  [[nodiscard]] __device__ bool has_piece() const { return lane / Tr::pieces < Tr::rows_at_once; }
};

/// One warp: a chunk's decays of a unit. Without steps, from the sequence's end on, a column is infinite.
__device__ inline void scan_chunk(hopper_decays const& to, float2 steps, float rate, int lane) {
  lane_decays const c = sum_decays(steps, rate, lane);
  reinterpret_cast<float2*>(to.row())[lane] = {c.first, c.second};
  reinterpret_cast<float2*>(to.column())[lane] = {c.first - log2f(steps.x), c.second - log2f(steps.y)};
  reinterpret_cast<float2*>(to.weight())[lane] = weights_at_end(c, steps);
}

/// The decays of a unit's chunks, by the warp that has the fewest scores; dt comes a chunk ahead.
template <class Tr>
struct decay_scan {
  float rate;
  float2 steps = {0, 0};

  __device__ explicit decay_scan(chunked_hopper_block<Tr> const& k) : rate{k.p.a[k.u.head] * log2_e} {
    load(k, k.first);
    next(k, 0);
  }
  /// Those of the chunk that is `step` from the first.
  __device__ void next(chunked_hopper_block<Tr> const& k, int step) {
    if (k.warp != 0) return;
    scan_chunk(k.decays(step), steps, rate, k.lane);
    load(k, k.first + step + 1);
  }

 private:
  __device__ void load(chunked_hopper_block<Tr> const& k, int chunk) {
    using sizes = typename Tr::sizes;
    if (k.warp == 0)
      steps =
          load_steps<sizes>(k.p.dt + k.before() * sizes::heads, k.u.head, chunk * ssd_tile + 2 * k.lane, k.p.length);
  }
};

/// The stages that tensor maps fill: chunk after chunk, one stage and the other.
template <class Tr>
struct chunk_stages {
  std::uint32_t memory, barriers;  ///< shared addresses; a barrier of 8 bytes a stage
  int* readers;                    ///< of each stage, warps that have read it, since the kernel's start

  [[nodiscard]] __device__ static int of(int step) { return step % Tr::stages; }
  [[nodiscard]] __device__ std::uint32_t bytes(int step) const {
    return memory + std::uint32_t(of(step) * Tr::stage_bytes);
  }
  [[nodiscard]] __device__ std::uint32_t filled(int step) const { return barriers + std::uint32_t(of(step) * 8); }
  __device__ void wait(int step) const { wait_phase(filled(step), unsigned(step / Tr::stages % 2)); }

  /// One thread: makes the barriers.
  __device__ void init() const {
    for (int s = 0; s < Tr::stages; ++s) init_phases(filled(s), 1), readers[s] = 0;
    publish_phases();
  }
};

/// One thread: starts the copies of a chunk. What is behind the sequence is zeros.
template <class Tr, bool Output>
__device__ inline void copy_chunk(chunked_hopper_block<Tr> k, chunked_hopper_arguments<typename Tr::element> const& o,
                                  chunk_stages<Tr> const& stages, int step) {
  std::uint32_t const filled = stages.filled(step), bytes = stages.bytes(step);
  arrive_expecting(filled, Output ? Tr::stage_bytes : Tr::stage_bytes - (Tr::x - Tr::c));
  auto const copy = [&](int place, tensor_map const& map, int column) {
    load_box_of(bytes + std::uint32_t(place), map, k.sequence, (k.first + step) * ssd_tile, column, filled);
  };
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) {
    int const column = k.group * Tr::sizes::d_state + part * 64;
    if (Output) copy(Tr::c + part * Tr::tile_bytes, o.c, column);
    copy(Tr::b + part * Tr::tile_bytes, o.b, column);
  }
#pragma unroll
  for (int team = 0; team < Tr::teams; ++team) {
    k.take(team);
    copy(Tr::x + team * Tr::tile_bytes, o.x, k.u.column);
  }
}

/// A warp has read a stage: the last one of the block refills it.
template <class Tr, bool Output>
__device__ inline void release_chunk(chunked_hopper_block<Tr> const& k,
                                     chunked_hopper_arguments<typename Tr::element> const& o,
                                     chunk_stages<Tr> const& stages, int step) {
  constexpr int warps = Tr::threads / 32;
  __syncwarp();
  if (k.lane != 0) return;
  __threadfence_block();
  int const before = atomicAdd(stages.readers + stages.of(step), 1);
  if (before % warps == warps - 1 && k.first + step + Tr::stages < k.last)
    copy_chunk<Tr, Output>(k, o, stages, step + Tr::stages);
}

/// Where a lane's pieces of y go.
template <class Tr>
struct chunked_hopper_target {
  using T = typename Tr::element;
  std::size_t at;  ///< of the first one of the chunk, in global memory
  int tokens;      ///< from that one to the sequence's end; none for a lane without pieces

  __device__ explicit chunked_hopper_target(chunked_hopper_block<Tr> const& k) {
    int const token = k.first * ssd_tile + k.warp * 16 + k.lane / Tr::pieces;
    at = global_address(k.p.y + (k.before() + std::size_t(token)) * Tr::sizes::inner + k.u.column +
                        k.lane % Tr::pieces * 8);
    tokens = k.has_piece() && k.active ? k.p.length - token : 0;
  }
  /// From the warp's rows of a tile.
  __device__ void write(chunked_hopper_block<Tr> const& k, unsigned char const* from) const {
#pragma unroll
    for (int i = 0; i < 16; i += Tr::rows_at_once)
      if (i < tokens)
        __stcg(global_pointer<uint4>(at + std::size_t(i * Tr::sizes::inner * 2)),
               *reinterpret_cast<uint4 const*>(from + k.piece(i)));
  }
  /// To the next chunk. Hidden, since the compiler would work the address out anew for each piece.
  __device__ void advance() {
    at += std::size_t(ssd_tile * Tr::sizes::inner * 2), tokens -= ssd_tile;
    hide(at);
  }
};

}  // namespace dm2::cuda::detail::ssd
