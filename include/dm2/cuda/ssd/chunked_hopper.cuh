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
#include <dm2/cuda/ssd/chunked_hopper_block.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::ssd {

/// A thread's part of a unit's state: rows g and g + 8 of its warp's 16 of each 64 of N, by the unit's columns.
template <class Tr>
using chunked_hopper_state = float[Tr::parts][Tr::sums];

template <class Tr>
__device__ __forceinline__ void hold_state(chunked_hopper_state<Tr>& state) {
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(state[part]);
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
      multiply_slice<typename Tr::element, operand_lies::across, operand_lies::across>(
          scores, further(c, step), further(b, step), part + step != 0);
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
      multiply_slice<typename Tr::element, operand_lies::down, operand_lies::down>(state[part], further_down(b, step),
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
      multiply_slice<typename Tr::element, operand_lies::across, operand_lies::across>(
          y, further(c, step), further(h, step), part + step != 0);
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
/// which are mostly a block's start: 22.9 us for 21.8 with one sequence of 3,137 tokens on an H200.
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
