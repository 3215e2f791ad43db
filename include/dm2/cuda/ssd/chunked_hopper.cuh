/// @file
/// The scan's chunked form in products of a Hopper's warpgroups.
///
/// As chunked.cuh's walk, with its plan, runs and roundings, but that scores are rounded once, after their decays. A
/// block has four units (a head's columns), one warpgroup each. B, C and the units' x of the next chunk are copied by
/// tensor maps while one is computed, started by the warp that is last to read the chunk before. Warpgroups wait for
/// copies and not for each other, so that one's decays are put on scores beside another's products. Tiles are 64 rows
/// of 128 bytes, swizzled, and operands of products as they are copied:
///     scores  S = C B^T          both across
///     y       = C h, then times exp(c_i), += (S with decays) x: h across from shared memory, transposed and rounded;
///               the scores as the left operand from the registers in which they came out
///     state   h = exp(c_63) h + B^T (weighted x): both down, h in registers, [N, columns]
/// Each warpgroup makes the scores for itself: 8 instructions, where passing them on would cost more. Of Tiny a chunk
/// is 2,900 cycles of products for four units, 3,000 of 128 bytes of shared memory for their operands, and 1,900 for
/// everything else.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/instructions/wgmma_slices.cuh>
#include <dm2/cuda/ssd/chunked.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

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

/// A thread's part of a unit's state: rows g and g + 8 of its warp's 16 of each 64 of N, by the unit's columns.
template <class Tr>
using chunked_hopper_state = float[Tr::parts][Tr::sums];

template <class Tr>
__device__ __forceinline__ void hold_state(chunked_hopper_state<Tr>& state) {
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
}

/// One warp: a chunk's decays of a unit. Without steps, from the sequence's end on, a column is infinite.
__device__ inline void scan_chunk(hopper_decays const& to, float2 steps, float rate, int lane) {
  lane_decays const c = sum_decays(steps, rate, lane);
  reinterpret_cast<float2*>(to.row())[lane] = {c.first, c.second};
  reinterpret_cast<float2*>(to.column())[lane] = {c.first - log2f(steps.x), c.second - log2f(steps.y)};
  reinterpret_cast<float2*>(to.weight())[lane] = weights_at_end(c, steps);
}

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

/// Eight numbers times w, rounded. Of bfloat16 w is two of them, and a product rounded once but for 2^-18.
template <class T>
__device__ inline uint4 scale_piece(uint4 v, float w) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    std::uint32_t const high = pack<T>(w, w);
    float const rest = w - unpack<T>(high).x;
    std::uint32_t const low = pack<T>(rest, rest);
    auto const scale = [&](std::uint32_t x) { return fma_pairs<T>(x, high, multiply_pairs<T>(x, low)); };
    return {scale(v.x), scale(v.y), scale(v.z), scale(v.w)};
  } else {
    return {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w), scale_pair<T>(v.w, w)};
  }
}

/// From x what is left of it at the chunk's end; each warp its 16 tokens.
template <class Tr>
__device__ inline void weight_x(chunked_hopper_block<Tr> const& k, unsigned char const* x, float const* weight) {
  constexpr int pieces = 16 / Tr::rows_at_once;
  if (!k.has_piece()) return;
  unsigned char* const to = k.shared + k.own() + Tr::weighted;
  weight += k.warp * 16 + k.lane / Tr::pieces;
  uint4 v[pieces];
#pragma unroll
  for (int i = 0; i < pieces; ++i) v[i] = *reinterpret_cast<uint4 const*>(x + k.piece(i * Tr::rows_at_once));
#pragma unroll
  for (int i = 0; i < pieces; ++i)
    *reinterpret_cast<uint4*>(to + k.piece(i * Tr::rows_at_once)) =
        scale_piece<typename Tr::element>(v[i], weight[i * Tr::rows_at_once]);
}

/// Starts S = C B^T.
template <class Tr>
__device__ __forceinline__ void start_scores(std::uint32_t stage, float (&scores)[32]) {
  fence_products();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) {
    std::uint64_t const c = product_operand(stage + std::uint32_t(Tr::c + part * Tr::tile_bytes));
    std::uint64_t const b = product_operand(stage + std::uint32_t(Tr::b + part * Tr::tile_bytes));
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_slice<typename Tr::element, operand::across, operand::across>(scores, further(c, step), further(b, step),
                                                                             part + step != 0);
  }
  commit_products();
}

/// h = exp(c_63) h: before any of the chunk's products has been started, since ptxas would wait for all of them here.
template <class Tr>
__device__ __forceinline__ void scale_state(chunked_hopper_state<Tr>& state, float last) {
  float const left = exp2_fast(last);
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; ++i) state[part][i] *= left;
  hold_state<Tr>(state);
}

/// Starts h += B^T (weighted x).
template <class Tr>
__device__ __forceinline__ void start_state(chunked_hopper_block<Tr> const& k, std::uint32_t stage,
                                            chunked_hopper_state<Tr>& state) {
  std::uint64_t const x = operand_down(shared_address(k.shared) + std::uint32_t(k.own() + Tr::weighted), 0);
  fence_products();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) {
    std::uint64_t const b = operand_down(stage + std::uint32_t(Tr::b + part * Tr::tile_bytes), 0);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_slice<typename Tr::element, operand::down, operand::down>(state[part], further_down(b, step),
                                                                         further_down(x, step), true);
  }
  commit_products();
}

/// Starts y = C h.
template <class Tr>
__device__ __forceinline__ void start_output(chunked_hopper_block<Tr> const& k, std::uint32_t stage,
                                             float (&y)[Tr::sums]) {
  std::uint32_t const state = shared_address(k.shared) + std::uint32_t(k.own() + Tr::state);
  fence_products();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) {
    std::uint64_t const c = product_operand(stage + std::uint32_t(Tr::c + part * Tr::tile_bytes));
    std::uint64_t const h = product_operand(state + std::uint32_t(part * Tr::state_part));
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_slice<typename Tr::element, operand::across, operand::across>(y, further(c, step), further(h, step),
                                                                             part + step != 0);
  }
  commit_products();
}

/// The scores with decays, rounded, as left operands: S_ij exp2(c_i - c_j) dt_j, above the diagonal 0. `low` and `high`
/// are c of the lane's rows.
template <class Tr>
__device__ __forceinline__ void decay_scores(chunked_hopper_block<Tr> const& k, float const* column, float low,
                                             float high, float const (&scores)[32], std::uint32_t (&a)[4][4]) {
  using T = typename Tr::element;
  int const g = fragment::row(k.lane), t = fragment::column(k.lane);
  column += t;
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
    a[tile][0] = a[tile][1] = a[tile][2] = a[tile][3] = 0;
    if (tile > k.warp) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const c = *reinterpret_cast<float2 const*>(column + tile * 16 + half * 8);
      float const* const s = scores + tile * 8 + half * 4;
      float2 first{s[0] * exp2_fast(low - c.x), s[1] * exp2_fast(low - c.y)};
      float2 second{s[2] * exp2_fast(high - c.x), s[3] * exp2_fast(high - c.y)};
      if (tile == k.warp) {  // a choice, not a factor: above the diagonal the exponential may be infinite
        float2& edge = half == 0 ? first : second;
        edge = {t <= g ? edge.x : 0.f, t + 1 <= g ? edge.y : 0.f};
        if (half == 1) first = {0.f, 0.f};
      }
      a[tile][2 * half] = pack<T>(first.x, first.y), a[tile][2 * half + 1] = pack<T>(second.x, second.y);
    }
  }
}

/// Starts y = exp(c_i) y + (scores with decays) x.
template <class Tr>
__device__ __forceinline__ void finish_output(std::uint32_t x_tile, float low, float high,
                                              std::uint32_t const (&a)[4][4], float (&y)[Tr::sums]) {
  std::uint64_t const x = operand_down(x_tile, 0);
  float const above = exp2_fast(low), below = exp2_fast(high);
#pragma unroll
  for (int i = 0; i < Tr::sums; i += 4) y[i] *= above, y[i + 1] *= above, y[i + 2] *= below, y[i + 3] *= below;
  hold(y);
  fence_products();
#pragma unroll
  for (int step = 0; step < 4; ++step) multiply_slice_down<typename Tr::element>(y, a[step], further_down(x, step));
  commit_products();
}

/// The state, rounded and transposed, for the next chunk's y: rows are the unit's columns, 64 of N a row.
template <class Tr>
__device__ inline void round_state(chunked_hopper_block<Tr> const& k, chunked_hopper_state<Tr> const& state) {
  using T = typename Tr::element;
  int const row = k.lane % 8, matrix = k.lane / 8;  // matrices: columns 0..7, rows g and g + 8; columns 8..15, ...
  std::uint32_t const to = shared_address(k.shared) + std::uint32_t(k.own() + Tr::state + (matrix / 2 * 8 + row) * 128 +
                                                                    ((2 * k.warp + matrix % 2) ^ row) * 16);
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; i += 8) {
      float const* const h = state[part] + i;
      std::uint32_t const r[4] = {pack<T>(h[0], h[1]), pack<T>(h[2], h[3]), pack<T>(h[4], h[5]), pack<T>(h[6], h[7])};
      store_matrix_transposed(to + std::uint32_t(part * Tr::state_part + i * 256), r);
    }
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

/// A lane's places in a tile: pair n of its row g, and 1024 bytes further of row g + 8.
template <class Tr>
__device__ inline int pair_place(chunked_hopper_block<Tr> const& k, int n) {
  int const g = fragment::row(k.lane);
  return (k.warp * 16 + g) * 128 + fragment::quarter(k.lane) * 4 + (g ^ n) * 16;
}

/// y + D x, rounded, to the warp's rows of weighted x: nobody else writes there, and the products have read it.
template <class Tr>
__device__ inline void stage_output(chunked_hopper_block<Tr> const& k, std::uint32_t const (&x)[Tr::pieces][2],
                                    float skip, float const (&y)[Tr::sums]) {
  using T = typename Tr::element;
  unsigned char* const staged = k.shared + k.own() + Tr::weighted;
#pragma unroll
  for (int n = 0; n < Tr::pieces; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const v = unpack<T>(x[n][half]);
      *reinterpret_cast<std::uint32_t*>(staged + pair_place(k, n) + half * 1024) =
          pack<T>(fmaf(skip, v.x, y[4 * n + 2 * half]), fmaf(skip, v.y, y[4 * n + 2 * half + 1]));
    }
  __syncwarp();
}

/// The state at the run's start, or zeros.
template <class Tr>
__device__ inline void begin_state(chunked_hopper_block<Tr> const& k, chunk_runs<typename Tr::element> const& runs,
                                   bool inherits, chunked_hopper_state<Tr>& state) {
  float4 const* const from =
      runs.states + (std::size_t(k.place) * runs.count + k.run) * Tr::state_vectors + k.warp * 32 + k.lane;
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; i += 4) {
      float4 const v = inherits ? from[(part * Tr::sums + i) / 4 * Tr::team_threads] : float4{0, 0, 0, 0};
      state[part][i] = v.x, state[part][i + 1] = v.y, state[part][i + 2] = v.z, state[part][i + 3] = v.w;
    }
}

/// The state after the run, and its decay.
template <class Tr>
__device__ inline void keep_state(chunked_hopper_block<Tr> const& k, chunk_runs<typename Tr::element> const& runs,
                                  chunked_hopper_state<Tr> const& state, float total) {
  if (!k.active) return;
  std::size_t const at = std::size_t(k.place) * runs.count + k.run;
  float4* const to = runs.states + at * Tr::state_vectors + k.warp * 32 + k.lane;
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; i += 4)
      to[(part * Tr::sums + i) / 4 * Tr::team_threads] = {state[part][i], state[part][i + 1], state[part][i + 2],
                                                          state[part][i + 3]};
  if (k.warp * 32 + k.lane == 0) runs.decays[at] = total;
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

/// A lane's pairs of x, as pair_place says.
template <class Tr>
using x_pairs = std::uint32_t[Tr::pieces][2];
template <class Tr>
__device__ inline void load_pairs(chunked_hopper_block<Tr> const& k, unsigned char const* x, x_pairs<Tr>& pairs) {
#pragma unroll
  for (int n = 0; n < Tr::pieces; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      pairs[n][half] = *reinterpret_cast<std::uint32_t const*>(x + pair_place(k, n) + half * 1024);
}

/// One chunk's y of a warpgroup, staged, the state after it, and the next chunk's decays; from the stage at `stage`,
/// whose x of the unit is at `x`.
template <class Tr>
__device__ __forceinline__ void multiply_output(chunked_hopper_block<Tr> const& k, std::uint32_t stage, int step,
                                                unsigned char const* x, float skip, decay_scan<Tr>& scan,
                                                chunked_hopper_state<Tr>& state) {
  float scores[32], y[Tr::sums];
  std::uint32_t a[4][4], pairs[Tr::pieces][2];
  hopper_decays const decays = k.decays(step);
  int const row = k.warp * 16 + fragment::row(k.lane);
  start_scores<Tr>(stage, scores);
  start_state<Tr>(k, stage, state);
  float const low = decays.row()[row], high = decays.row()[row + 8];
  wait_products<1>();
  hold(scores);
  decay_scores(k, decays.column(), low, high, scores, a);
  start_output<Tr>(k, stage, y);
  scan.next(k, step + 1);
  wait_products<0>();
  hold_state<Tr>(state);
  hold(y);
  barrier<Tr::team_threads>(k.team);  // weighted x and the state's copy have been read, the next decays are there
  finish_output<Tr>(shared_address(x), low, high, a, y);
  round_state<Tr>(k, state);
  load_pairs<Tr>(k, x, pairs);
  wait_products<0>();
  hold(y);
  stage_output<Tr>(k, pairs, skip, y);
}

/// A warpgroup: all chunks of its unit. What it writes to shared memory is read by its own products alone.
template <class Tr, bool Output>
__device__ __forceinline__ void walk_chunks(chunked_hopper_block<Tr> const& k,
                                            chunked_hopper_arguments<typename Tr::element> const& o,
                                            chunk_runs<typename Tr::element> const& runs,
                                            chunk_stages<Tr> const& stages) {
  float state[Tr::parts][Tr::sums];
  begin_state<Tr>(k, runs, Output && k.run > 0, state);
  if (Output) round_state<Tr>(k, state);
  float const skip = k.p.d[k.u.head];
  float total = 0;
  decay_scan<Tr> scan{k};
  chunked_hopper_target<Tr> target{k};
  barrier<Tr::team_threads>(k.team);
#pragma unroll 1
  for (int step = 0; k.first + step < k.last; ++step) {
    unsigned char const* const x = k.shared + stages.of(step) * Tr::stage_bytes + Tr::x + k.team * Tr::tile_bytes;
    float const last = k.decays(step).last();
    stages.wait(step);
    weight_x(k, x, k.decays(step).weight());
    scale_state<Tr>(state, last);
    fence_copies();
    barrier<Tr::team_threads>(k.team);
    if constexpr (Output) {
      multiply_output<Tr>(k, stages.bytes(step), step, x, skip, scan, state);
      target.write(k, k.shared + k.own() + Tr::weighted);
      target.advance();
    } else {
      start_state<Tr>(k, stages.bytes(step), state);
      total += last;
      scan.next(k, step + 1);
      wait_products<0>();
      hold_state<Tr>(state);
      barrier<Tr::team_threads>(k.team);  // weighted x has been read, the next decays are there
    }
    release_chunk<Tr, Output>(k, o, stages, step);
  }
  if (!Output) keep_state<Tr>(k, runs, state, total);
}

/// chunked_kernel by warpgroups' products. Block: unit block + unit blocks (group + G (run + runs sequence)).
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, 1)
    chunked_hopper_kernel(__grid_constant__ chunked_hopper_arguments<typename Tr::element> const o,
                          __grid_constant__ chunk_runs<typename Tr::element> const runs) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[Tr::stages];  // has_hopper_code() finds it
    __shared__ int readers[Tr::stages];
    unsigned char* const memory = align_shared<Tr::alignment>(dynamic_shared());
    chunked_hopper_block<Tr> const k{o.plain, runs, memory};
    if (!Output && k.run + 1 == runs.count) return;  // no run begins with the state after the last
    chunk_stages<Tr> const stages{shared_address(memory), shared_address(barriers), readers};
    if (threadIdx.x == 0) {
      stages.init();
      for (int step = 0; step < Tr::stages && k.first + step < k.last; ++step)
        copy_chunk<Tr, Output>(k, o, stages, step);
    }
    __syncthreads();
    walk_chunks<Tr, Output>(k, o, runs, stages);
  }
}

/// The walk, as launch_walk of chunked.cuh.
template <class Sizes, bool Output>
void launch_walk(chunked_hopper_traits<Sizes>, std::bool_constant<Output>, arguments<typename Sizes::element> const& p,
                 chunk_runs<typename Sizes::element> const& runs, int sequences, unsigned blocks, cudaStream_t stream) {
  using traits = chunked_hopper_traits<Sizes>;
  auto const kernel = chunked_hopper_kernel<traits, Output>;
  tile_shape const tile{ssd_tile, 64, true};
  auto const map = [&](auto const* from, int columns) {
    return make_tensor_map(from, matrix_batch{std::size_t(sequences), std::size_t(p.length), columns}, tile);
  };
  chunked_hopper_arguments<typename Sizes::element> const arguments{
      p, map(p.x, Sizes::inner), map(p.b, Sizes::state_width), map(p.c, Sizes::state_width)};
  launch("ssd: chunks", kernel, {blocks, traits::threads, std::size_t(traits::bytes)}, stream, arguments, runs);
}

/// Whether ssd takes the kernel for these sizes on a Hopper. Slices of 16 columns have been compared with nothing: they
/// stay with chunked.cuh.
template <class Tr>
inline constexpr bool takes_chunked_hopper = Tr::possible&& Tr::slice >= 32 && Tr::unit::count >= Tr::teams;

/// Whether this device runs the kernel, and this program has it compiled.
template <class Tr>
bool chunked_hopper_runs(device_properties const& device) {
  if (device.major != 9 || device.minor != 0 || Tr::bytes > device.shared_per_block) return false;
  static bool const compiled = has_hopper_code("ssd: chunks", chunked_hopper_kernel<Tr, true>);
  return compiled;
}

/// f(traits, plan) with what the forward takes: as with_chunked_traits, and this kernel in the place of four units a
/// block where no multiprocessor then has more columns to do than with two; but not for runs of fewer than four chunks,
/// which are mostly a block's start, and not timed.
template <class Sizes, class F>
auto with_forward_traits(int length, int sequences, device_properties const& device, F const& f) {
  using hopper = chunked_hopper_traits<Sizes>;
  if constexpr (takes_chunked_hopper<hopper>) {
    using two = chunked_traits<Sizes, 2>;
    auto const plan = chunked_plan::make<hopper>(length, sequences, device);
    auto const pairs = chunked_plan::make<two>(length, sequences, device);
    bool const worth = plan.runs == 1 || plan.chunks >= 4;
    if (worth && chunked_hopper_runs<hopper>(device) &&
        hopper::slice * longest_work<hopper>(plan, sequences, device) <=
            two::slice * longest_work<two>(pairs, sequences, device))
      return f(hopper{}, plan);
  }
  return with_chunked_traits<Sizes>(length, sequences, device, f);
}

}  // namespace dm2::cuda::detail::ssd
