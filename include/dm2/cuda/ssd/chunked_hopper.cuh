/// @file
/// The scan's chunked form in products of a Hopper's warpgroups.
///
/// As chunked.cuh's walk, with its plan, runs and roundings. A block has four units (a head's columns), one warpgroup
/// each. B and C of two chunks lie in shared memory, and x of each unit: while one chunk is computed the next one
/// arrives. Tiles are 64 rows of 128 bytes, swizzled, and operands of products as they are copied:
///     scores  S = C B^T          both across
///     y       = C h, then times exp(c_i), += (S with decays) x: h across from shared memory, transposed and rounded;
///               the scores as the left operand from the registers in which they came out
///     state   h = exp(c_63) h + B^T (weighted x): both down, h in registers, [N, columns]
/// Each warpgroup makes the scores for itself, which costs it 8 instructions: passing them on would cost more. The
/// state's product runs while decays are put on the scores. Of Tiny a chunk is 2,900 cycles of products for four units.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
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

/// How a block computes, and byte offsets into its shared memory: two stages, what each unit has, each unit's decays.
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
  static constexpr int stage_bytes = x + teams * tile_bytes, unit_begin = 2 * stage_bytes;
  static constexpr int weighted = 0, state = tile_bytes, state_part = slice * 128;
  static constexpr int unit_bytes = state + parts * state_part;
  static constexpr int decays_begin = unit_begin + teams * unit_bytes;
  static constexpr int decay = 0, weight = 2 * ssd_tile * 8, decays_bytes = weight + ssd_tile * 4;
  static constexpr int bytes = decays_begin + teams * decays_bytes + alignment;
  /// Blocks that a multiprocessor holds: of 512 threads of 128 registers.
  static constexpr int resident(int) { return 1; }

  static constexpr int state_pieces = Sizes::d_state / 8, state_rows = threads / state_pieces;  // copied at once
  static constexpr int x_rows = int(std::bit_floor(unsigned(team_threads / pieces)));
  static constexpr int y_rows = std::min(16, int(std::bit_floor(unsigned(32 / pieces))));  // written at once by a warp
};

/// One block's place in the work, seen from one of its threads.
template <class Tr>
struct chunked_hopper_block {
  using T = typename Tr::element;
  using sizes = typename Tr::sizes;
  arguments<T> const& p;
  unsigned char* shared;
  int team, warp, lane, thread;  ///< warp, thread: of the team
  int run, place;                ///< place: the unit, counted over all sequences
  bool active;  ///< false where the last block has a team too many: it repeats the last unit and writes nothing
  int group, first, last;  ///< chunks
  typename Tr::unit u;
  std::size_t before;  ///< the sequence's first token

  __device__ chunked_hopper_block(arguments<T> const& all, chunk_runs<T> const& runs, unsigned char* memory)
      : p{all}, shared{memory}, lane{int(threadIdx.x) & 31}, thread{int(threadIdx.x) % Tr::team_threads}, u{0, 0} {
    constexpr int unit_blocks = (Tr::unit::count + Tr::teams - 1) / Tr::teams;
    int const of_block = __shfl_sync(~0u, int(threadIdx.x) >> 5, 0);  // so the compiler knows that lanes agree
    team = of_block >> 2, warp = of_block & 3;
    int const wanted = int(blockIdx.x) % unit_blocks * Tr::teams + team, at = int(blockIdx.x) / unit_blocks;
    int const unit = min(wanted, Tr::unit::count - 1), sequence = at / sizes::groups / runs.count;
    group = at % sizes::groups;
    run = at / sizes::groups % runs.count;
    active = wanted == unit;
    place = (sequence * sizes::groups + group) * Tr::unit::count + unit;
    u = typename Tr::unit{group, unit};
    first = run * runs.chunks, last = min(first + runs.chunks, (p.length + ssd_tile - 1) / ssd_tile);
    before = std::size_t(sequence) * std::size_t(p.length);
  }

  /// A chunk's stage; its unit's tile of x.
  [[nodiscard]] __device__ int stage(int chunk) const { return (chunk & 1) * Tr::stage_bytes; }
  [[nodiscard]] __device__ int x(int chunk) const { return stage(chunk) + Tr::x + team * Tr::tile_bytes; }
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
    return load_steps<sizes>(p.dt + before * sizes::heads, u.head, chunk * ssd_tile + 2 * lane, p.length);
  }
};

/// A thread's part of a unit's state: rows g and g + 8 of its warp's 16 of each 64 of N, by the unit's columns.
template <class Tr>
using chunked_hopper_state = float[Tr::parts][Tr::sums];

template <class Tr>
__device__ inline void scan_chunk(chunked_hopper_block<Tr> const& k, int chunk, float2 steps, float rate) {
  scan_decays(steps, rate, k.lane, reinterpret_cast<float4*>(k.decay(chunk)),
              reinterpret_cast<float2*>(k.decays() + Tr::weight));
}

/// Starts the copies of a chunk, zeros behind the sequence.
template <class Tr, bool Output>
__device__ inline void copy_chunk(chunked_hopper_block<Tr> const& k, int chunk) {
  using sizes = typename Tr::sizes;
  std::uint32_t const stage = shared_address(k.shared) + std::uint32_t(k.stage(chunk));
  {
    int const row = int(threadIdx.x) / Tr::state_pieces, piece = int(threadIdx.x) % Tr::state_pieces;
    std::uint32_t const to = stage + std::uint32_t(piece / 8 * Tr::tile_bytes + row * 128 + ((piece ^ row) & 7) * 16);
    int const token = chunk * ssd_tile + row;
    std::size_t const from =
        (k.before + std::size_t(token)) * sizes::state_width + std::size_t(k.group * sizes::d_state + piece * 8);
#pragma unroll
    for (int i = 0; i < ssd_tile; i += Tr::state_rows) {
      bool const inside = token + i < k.p.length;
      copy_async(to + std::uint32_t(Tr::b + i * 128), k.p.b + from + i * sizes::state_width, inside);
      if (Output) copy_async(to + std::uint32_t(Tr::c + i * 128), k.p.c + from + i * sizes::state_width, inside);
    }
  }
  int const row = k.thread / Tr::pieces, piece = k.thread % Tr::pieces;
  if (row >= Tr::x_rows) return;
  std::uint32_t const to = shared_address(k.shared) + std::uint32_t(k.x(chunk) + row * 128 + ((piece ^ row) & 7) * 16);
  int const token = chunk * ssd_tile + row;
  auto const* const from = k.p.x + (k.before + std::size_t(token)) * sizes::inner + k.u.column + piece * 8;
#pragma unroll
  for (int i = 0; i < ssd_tile; i += Tr::x_rows)
    copy_async(to + std::uint32_t(i * 128), from + i * sizes::inner, token + i < k.p.length);
}

/// From x what is left of it at the chunk's end. A thread reads what it copied itself.
template <class Tr>
__device__ inline void weight_x(chunked_hopper_block<Tr> const& k, int chunk) {
  using T = typename Tr::element;
  int const row = k.thread / Tr::pieces, piece = k.thread % Tr::pieces;
  if (row >= Tr::x_rows) return;
  int const at = row * 128 + ((piece ^ row) & 7) * 16;
  unsigned char const* const from = k.shared + k.x(chunk) + at;
  unsigned char* const to = k.shared + k.own() + Tr::weighted + at;
  float const* const weight = reinterpret_cast<float const*>(k.decays() + Tr::weight) + row;
#pragma unroll
  for (int i = 0; i < ssd_tile; i += Tr::x_rows) {
    uint4 const v = *reinterpret_cast<uint4 const*>(from + i * 128);
    float const w = weight[i];
    *reinterpret_cast<uint4*>(to + i * 128) = {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w),
                                               scale_pair<T>(v.w, w)};
  }
}

/// Starts S = C B^T.
template <class Tr>
__device__ __forceinline__ void start_scores(chunked_hopper_block<Tr> const& k, int chunk, float (&scores)[32]) {
  std::uint32_t const stage = shared_address(k.shared) + std::uint32_t(k.stage(chunk));
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
__device__ __forceinline__ void start_state(chunked_hopper_block<Tr> const& k, int chunk,
                                            chunked_hopper_state<Tr>& state) {
  std::uint32_t const stage = shared_address(k.shared) + std::uint32_t(k.stage(chunk));
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
__device__ __forceinline__ void start_output(chunked_hopper_block<Tr> const& k, int chunk, float (&y)[Tr::sums]) {
  std::uint32_t const shared = shared_address(k.shared);
  fence_products();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) {
    std::uint64_t const c = product_operand(shared + std::uint32_t(k.stage(chunk) + Tr::c + part * Tr::tile_bytes));
    std::uint64_t const h = product_operand(shared + std::uint32_t(k.own() + Tr::state + part * Tr::state_part));
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
__device__ __forceinline__ void finish_output(chunked_hopper_block<Tr> const& k, int chunk, float low, float high,
                                              std::uint32_t const (&a)[4][4], float (&y)[Tr::sums]) {
  std::uint64_t const x = operand_down(shared_address(k.shared) + std::uint32_t(k.x(chunk)), 0);
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

/// y + D x of the warp's 16 tokens, rounded: first in x's place, then to memory in whole pieces.
template <class Tr>
__device__ inline void write_output(chunked_hopper_block<Tr> const& k, int chunk, float skip,
                                    float const (&y)[Tr::sums]) {
  using T = typename Tr::element;
  unsigned char* const tile = k.shared + k.x(chunk) + k.warp * 16 * 128;
  int const g = fragment::row(k.lane), at = g * 128 + fragment::quarter(k.lane) * 4;
#pragma unroll
  for (int n = 0; n < Tr::pieces; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto* const place = reinterpret_cast<std::uint32_t*>(tile + at + (g ^ n) * 16 + half * 1024);
      float2 const x = unpack<T>(*place);
      *place = pack<T>(fmaf(skip, x.x, y[4 * n + 2 * half]), fmaf(skip, x.y, y[4 * n + 2 * half + 1]));
    }
  __syncwarp();
  int const row = k.lane / Tr::pieces, piece = k.lane % Tr::pieces, token = chunk * ssd_tile + k.warp * 16 + row;
  if (row >= Tr::y_rows || !k.active) return;
  T* const to = k.p.y + (k.before + std::size_t(token)) * Tr::sizes::inner + k.u.column + piece * 8;
#pragma unroll
  for (int i = 0; i < 16; i += Tr::y_rows)
    if (token + i < k.p.length)
      __stcg(reinterpret_cast<uint4*>(to + i * Tr::sizes::inner),
             *reinterpret_cast<uint4 const*>(tile + (row + i) * 128 + ((piece ^ row ^ i) & 7) * 16));
}

/// The state at the run's start, or zeros.
template <class Tr>
__device__ inline void begin_state(chunked_hopper_block<Tr> const& k, chunk_runs<typename Tr::element> const& runs,
                                   bool inherits, chunked_hopper_state<Tr>& state) {
  float4 const* const from = runs.states + (std::size_t(k.place) * runs.count + k.run) * Tr::state_vectors + k.thread;
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
  float4* const to = runs.states + at * Tr::state_vectors + k.thread;
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
    for (int i = 0; i < Tr::sums; i += 4)
      to[(part * Tr::sums + i) / 4 * Tr::team_threads] = {state[part][i], state[part][i + 1], state[part][i + 2],
                                                          state[part][i + 3]};
  if (k.thread == 0) runs.decays[at] = total;
}

/// One chunk's products of a team: y, if Output, and the state after it, rounded for the next one too. Two barriers of
/// the team's: its decays, operands and the state's copy are written between chunks alone.
template <bool Output, class Tr>
__device__ __forceinline__ void multiply_chunk_of(chunked_hopper_block<Tr> const& k, int chunk, float2& steps,
                                                  float rate, chunked_hopper_state<Tr>& state) {
  float scores[32], y[Tr::sums];
  std::uint32_t a[4][4];
  float2 const* const decay = k.decay(chunk);
  int const row = k.warp * 16 + fragment::row(k.lane);
  float const low = decay[row].x, high = decay[row + 8].x;
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
  if constexpr (Output) start_scores(k, chunk, scores);
  start_state<Tr>(k, chunk, state);
  if constexpr (Output) {
    wait_products<1>();
    hold(scores);
    decay_scores(k, decay, low, high, scores, a);
    start_output<Tr>(k, chunk, y);
  }
  if (k.scans() && chunk + 1 < k.last) scan_chunk(k, chunk + 1, steps, rate);
  steps = k.steps(chunk + 2);
  wait_products<0>();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
  if constexpr (Output) {
    hold(y);
    finish_output<Tr>(k, chunk, low, high, a, y);
  }
  barrier<Tr::team_threads>(k.team);  // the team's products have read their operands, the next decays are there
  if constexpr (Output) {
    round_state<Tr>(k, state);
    write_output<Tr>(k, chunk, k.p.d[k.u.head], y);
  }
}

/// chunked_kernel by warpgroups' products. Block: unit block + unit blocks (group + G (run + runs sequence)).
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, 1)
    chunked_hopper_kernel(__grid_constant__ arguments<typename Tr::element> const p,
                          __grid_constant__ chunk_runs<typename Tr::element> const runs) {
  if constexpr (hopper_code) {
    mark_hopper_code();
    chunked_hopper_block<Tr> const k{p, runs, align_shared<Tr::alignment>(dynamic_shared())};
    if (!Output && k.run + 1 == runs.count) return;  // no run begins with the state after the last
    copy_chunk<Tr, Output>(k, k.first);
    commit_copies();
    float const rate = p.a[k.u.head] * log2_e;
    float state[Tr::parts][Tr::sums];
    begin_state<Tr>(k, runs, Output && k.run > 0, state);
    if (Output) round_state<Tr>(k, state);
    if (k.scans()) scan_chunk(k, k.first, k.steps(k.first), rate);
    float2 steps = k.steps(k.first + 1);
    float total = 0;
    barrier<Tr::team_threads>(k.team);
#pragma unroll 1
    for (int chunk = k.first; chunk < k.last; ++chunk) {
      scale_state<Tr>(k, chunk, state);
      wait_copies<0>();
      weight_x(k, chunk);
      fence_copies();
      __syncthreads();  // the chunk is there, and the one before is done with
      if (chunk + 1 < k.last) copy_chunk<Tr, Output>(k, chunk + 1);
      commit_copies();
      if (!Output) total += k.decay(chunk)[ssd_tile - 1].x;
      multiply_chunk_of<Output>(k, chunk, steps, rate, state);
    }
    if (!Output) keep_state<Tr>(k, runs, state, total);
  }
}

template <class Sizes, bool Output>
auto walk_kernel(chunked_hopper_traits<Sizes>, std::bool_constant<Output>) {
  return chunked_hopper_kernel<chunked_hopper_traits<Sizes>, Output>;
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
