/// @file
/// The scan's chunked form in products of a Hopper's warpgroups.
///
/// As chunked.cuh's walk, with its plan, runs and roundings. A block has four units (a head's columns), one warpgroup
/// each, and one thread that copies: B, C and the units' x of one chunk while another one is computed. Warpgroups wait
/// for those copies and not for each other, so that one's decays are computed beside another's products. Tiles are 64
/// rows of 128 bytes, swizzled, and operands of products as they are copied:
///     scores  S = C B^T          both across
///     y       = C h, then times exp(c_i), += (S with decays) x: h across from shared memory, transposed and rounded;
///               the scores as the left operand from the registers in which they came out
///     state   h = exp(c_63) h + B^T (weighted x): both down, h in registers, [N, columns]
/// Each warpgroup makes the scores for itself, which costs it 8 instructions: passing them on would cost more. Of Tiny a
/// chunk is 2,900 cycles of products for four units.
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

/// How a block computes, and byte offsets into its shared memory: two stages, what each unit has, each unit's decays.
template <class Sizes>
struct chunked_hopper_traits {
  using sizes = Sizes;
  using element = typename Sizes::element;
  static constexpr int teams = 4, groups = teams, team_threads = 128, threads = (teams + 1) * team_threads;
  static constexpr int copier_registers = 24, registers = 120;
  static constexpr int parts = std::max(Sizes::d_state / 64, 1);  // of the state: 64 rows each
  static constexpr int slice = widest_slice(Sizes::headdim, std::clamp(96 / parts / 16 * 16, 16, 64));
  static constexpr int pieces = slice / 8, sums = slice / 2;  // sums: a thread's of 64 rows
  using unit = ssd_unit<Sizes, slice>;
  static constexpr int state_vectors = parts * sums / 4 * team_threads;
  /// Sizes that the kernel is for: 120 registers hold the state, the scores or y, and addresses.
  static constexpr bool possible = Sizes::d_state % 64 == 0 && Sizes::d_state <= 128 && Sizes::headdim % 16 == 0;

  static constexpr int tile_bytes = ssd_tile * 128, alignment = 1024;
  static constexpr int b = 0, c = parts * tile_bytes, x = 2 * parts * tile_bytes;
  static constexpr int stages = 2, stage_bytes = x + teams * tile_bytes, unit_begin = stages * stage_bytes;
  static constexpr int weighted = 0, state = tile_bytes, state_part = slice * 128;
  static constexpr int unit_bytes = state + parts * state_part;
  static constexpr int decays_begin = unit_begin + teams * unit_bytes;
  static constexpr int decay = 0, weight = 2 * ssd_tile * 8, decays_bytes = weight + ssd_tile * 4;
  static constexpr int bytes = decays_begin + teams * decays_bytes + alignment;
  /// Blocks that a multiprocessor holds: of 640 threads of 96 registers, which are then shared out anew.
  static constexpr int resident(int) { return 1; }
  /// Rows of x that a warp goes through at once, a piece of 16 bytes a lane.
  static constexpr int rows_at_once = std::min(16, int(std::bit_floor(unsigned(32 / pieces))));
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
  [[nodiscard]] __device__ unsigned char* decays() const { return shared + Tr::decays_begin + team * Tr::decays_bytes; }
  /// {c_t, dt_t} of a chunk's tokens.
  [[nodiscard]] __device__ float2* decay(int chunk) const {
    return reinterpret_cast<float2*>(decays() + Tr::decay) + (chunk & 1) * ssd_tile;
  }
  /// The warp that scans is the one with the fewest scores.
  [[nodiscard]] __device__ bool scans() const { return warp == 0; }
  /// dt of the lane's two tokens of a chunk, in that warp.
  [[nodiscard]] __device__ float2 steps(int chunk) const {
    if (!scans()) return {0, 0};
    return load_steps<sizes>(p.dt + before() * sizes::heads, u.head, chunk * ssd_tile + 2 * lane, p.length);
  }
  /// The lane's first piece of a tile of x, and of each further one `rows_at_once` rows on: bytes from the tile's first.
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
__device__ inline void scan_chunk(chunked_hopper_block<Tr> const& k, int chunk, float2 steps, float rate) {
  scan_decays(steps, rate, k.lane, reinterpret_cast<float4*>(k.decay(chunk)),
              reinterpret_cast<float2*>(k.decays() + Tr::weight));
}

/// One thread: the copies of all chunks. What is behind the sequence is zeros.
template <class Tr, bool Output>
__device__ inline void copy_chunks(chunked_hopper_block<Tr> k, chunked_hopper_arguments<typename Tr::element> const& o,
                                   stage_ring<Tr> ring) {
  for (int chunk = k.first; chunk < k.last; ++chunk) {
    ring.claim(Output ? Tr::stage_bytes : Tr::stage_bytes - (Tr::x - Tr::c));
    auto const copy = [&](int place, tensor_map const& map, int column) {
      load_box_of(ring.bytes() + std::uint32_t(place), map, k.sequence, chunk * ssd_tile, column, ring.filled());
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
    ring.advance();
  }
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
__device__ inline void weight_x(chunked_hopper_block<Tr> const& k, unsigned char const* x) {
  if (!k.has_piece()) return;
  unsigned char* const to = k.shared + k.own() + Tr::weighted;
  float const* const weight =
      reinterpret_cast<float const*>(k.decays() + Tr::weight) + k.warp * 16 + k.lane / Tr::pieces;
#pragma unroll
  for (int i = 0; i < 16; i += Tr::rows_at_once)
    *reinterpret_cast<uint4*>(to + k.piece(i)) =
        scale_piece<typename Tr::element>(*reinterpret_cast<uint4 const*>(x + k.piece(i)), weight[i]);
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
__device__ __forceinline__ void scale_state(chunked_hopper_block<Tr> const& k, int chunk,
                                            chunked_hopper_state<Tr>& state) {
  float const left = exp2_fast(k.decay(chunk)[ssd_tile - 1].x);
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; ++i) state[part][i] *= left;
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
__device__ __forceinline__ void decay_scores(chunked_hopper_block<Tr> const& k, float2 const* decay, float low,
                                             float high, float const (&scores)[32], std::uint32_t (&a)[4][4]) {
  using T = typename Tr::element;
  int const g = fragment::row(k.lane), t = fragment::column(k.lane);
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
    a[tile][0] = a[tile][1] = a[tile][2] = a[tile][3] = 0;
    if (tile > k.warp) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 const e = *reinterpret_cast<float4 const*>(decay + tile * 16 + half * 8 + t);
      float const* const s = scores + tile * 8 + half * 4;
      float2 first{s[0] * (exp2_fast(low - e.x) * e.y), s[1] * (exp2_fast(low - e.z) * e.w)};
      float2 second{s[2] * (exp2_fast(high - e.x) * e.y), s[3] * (exp2_fast(high - e.z) * e.w)};
      if (tile == k.warp) {  // a choice, not a factor: above the diagonal the exponential may be infinite
        float2& edge = half == 0 ? first : second;
        edge = {t <= g ? edge.x : 0.f, t + 1 <= g ? edge.y : 0.f};
        if (half == 1) first = {0.f, 0.f};
      }
      a[tile][2 * half] = pack<T>(first.x, first.y), a[tile][2 * half + 1] = pack<T>(second.x, second.y);
    }
  }
}

/// y = exp(c_i) y + (scores with decays) x; waits for it.
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
  wait_products<0>();
  hold(y);
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

/// y + D x of the warp's 16 tokens, rounded: first to the rows of weighted x that this warp alone writes, then to memory
/// in whole pieces.
template <class Tr>
__device__ inline void write_output(chunked_hopper_block<Tr> const& k, int chunk, unsigned char const* x, float skip,
                                    float const (&y)[Tr::sums]) {
  using T = typename Tr::element;
  unsigned char* const staged = k.shared + k.own() + Tr::weighted;
  int const g = fragment::row(k.lane), at = (k.warp * 16 + g) * 128 + fragment::quarter(k.lane) * 4;
#pragma unroll
  for (int n = 0; n < Tr::pieces; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const place = at + (g ^ n) * 16 + half * 1024;
      float2 const v = unpack<T>(*reinterpret_cast<std::uint32_t const*>(x + place));
      *reinterpret_cast<std::uint32_t*>(staged + place) =
          pack<T>(fmaf(skip, v.x, y[4 * n + 2 * half]), fmaf(skip, v.y, y[4 * n + 2 * half + 1]));
    }
  __syncwarp();
  int const token = chunk * ssd_tile + k.warp * 16 + k.lane / Tr::pieces;
  if (!k.has_piece() || !k.active) return;
  T* const to = k.p.y + (k.before() + std::size_t(token)) * Tr::sizes::inner + k.u.column + k.lane % Tr::pieces * 8;
#pragma unroll
  for (int i = 0; i < 16; i += Tr::rows_at_once)
    if (token + i < k.p.length)
      __stcg(reinterpret_cast<uint4*>(to + i * Tr::sizes::inner), *reinterpret_cast<uint4 const*>(staged + k.piece(i)));
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

/// One chunk's products of a warpgroup, from the stage at `stage` whose x of the unit is at `x`: y, if Output, and the
/// state after it. Ends where the warpgroup has read its operands.
template <bool Output, class Tr>
__device__ __forceinline__ void multiply_chunk_of(chunked_hopper_block<Tr> const& k, int chunk, std::uint32_t stage,
                                                  unsigned char const* x, float2& steps, float rate,
                                                  chunked_hopper_state<Tr>& state) {
  float scores[32], y[Tr::sums];
  std::uint32_t a[4][4];
  float2 const* const decay = k.decay(chunk);
  int const row = k.warp * 16 + fragment::row(k.lane);
  float const low = decay[row].x, high = decay[row + 8].x;
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
  if constexpr (Output) start_scores<Tr>(stage, scores);
  start_state<Tr>(k, stage, state);
  if constexpr (Output) {
    wait_products<1>();
    hold(scores);
    decay_scores(k, decay, low, high, scores, a);
    start_output<Tr>(k, stage, y);
  }
  if (k.scans() && chunk + 1 < k.last) scan_chunk(k, chunk + 1, steps, rate);
  steps = k.steps(chunk + 2);
  wait_products<0>();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
  if constexpr (Output) {
    hold(y);
    finish_output<Tr>(shared_address(x), low, high, a, y);
  }
  barrier<Tr::team_threads>(k.team);  // the next decays are there too
  if constexpr (Output) {
    round_state<Tr>(k, state);
    write_output<Tr>(k, chunk, x, k.p.d[k.u.head], y);
  }
}

/// A warpgroup: all chunks of its unit. What it writes to shared memory is read by its own products alone.
template <class Tr, bool Output>
__device__ __forceinline__ void walk_chunks(chunked_hopper_block<Tr> const& k,
                                            chunk_runs<typename Tr::element> const& runs, stage_ring<Tr> ring) {
  float const rate = k.p.a[k.u.head] * log2_e;
  float state[Tr::parts][Tr::sums];
  begin_state<Tr>(k, runs, Output && k.run > 0, state);
  if (Output) round_state<Tr>(k, state);
  if (k.scans()) scan_chunk(k, k.first, k.steps(k.first), rate);
  float2 steps = k.steps(k.first + 1);
  float total = 0;
  barrier<Tr::team_threads>(k.team);
#pragma unroll 1
  for (int chunk = k.first; chunk < k.last; ++chunk) {
    unsigned char const* const x = k.shared + ring.stage * Tr::stage_bytes + Tr::x + k.team * Tr::tile_bytes;
    scale_state<Tr>(k, chunk, state);
    if (!Output) total += k.decay(chunk)[ssd_tile - 1].x;
    ring.wait();
    weight_x(k, x);
    fence_copies();
    barrier<Tr::team_threads>(k.team);
    multiply_chunk_of<Output>(k, chunk, ring.bytes(), x, steps, rate, state);
    ring.release(k.lane);
    ring.advance();
  }
  if (!Output) keep_state<Tr>(k, runs, state, total);
}

/// chunked_kernel by warpgroups' products. Block: unit block + unit blocks (group + G (run + runs sequence)).
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, 1)
    chunked_hopper_kernel(__grid_constant__ chunked_hopper_arguments<typename Tr::element> const o,
                          __grid_constant__ chunk_runs<typename Tr::element> const runs) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Tr::stages];  // has_hopper_code() finds it
    unsigned char* const memory = align_shared<Tr::alignment>(dynamic_shared());
    chunked_hopper_block<Tr> const k{o.plain, runs, memory};
    if (!Output && k.run + 1 == runs.count) return;  // no run begins with the state after the last
    stage_ring<Tr> const ring{shared_address(memory), shared_address(barriers)};
    ring.init();
    if (k.team == Tr::teams) {
      release_registers<Tr::copier_registers>();
      if (threadIdx.x == Tr::teams * Tr::team_threads) copy_chunks<Tr, Output>(k, o, ring);
    } else {
      claim_registers<Tr::registers>();
      walk_chunks<Tr, Output>(k, runs, ring);
    }
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
/// block where no multiprocessor then has more columns to do than with two.
template <class Sizes, class F>
auto with_forward_traits(int length, int sequences, device_properties const& device, F const& f) {
  using hopper = chunked_hopper_traits<Sizes>;
  if constexpr (takes_chunked_hopper<hopper>) {
    using two = chunked_traits<Sizes, 2>;
    auto const plan = chunked_plan::make<hopper>(length, sequences, device);
    auto const pairs = chunked_plan::make<two>(length, sequences, device);
    if (chunked_hopper_runs<hopper>(device) && hopper::slice * longest_work<hopper>(plan, sequences, device) <=
                                                   two::slice * longest_work<two>(pairs, sequences, device))
      return f(hopper{}, plan);
  }
  return with_chunked_traits<Sizes>(length, sequences, device, f);
}

}  // namespace dm2::cuda::detail::ssd
