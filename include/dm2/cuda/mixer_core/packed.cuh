/// @file
/// The mixer core for short sequences, packed: halves in pairs, fewer instructions.
///
/// For at most 224 tokens, as tensor.cuh, with the same steps, and taken instead of it wherever as many of its blocks
/// fit on a multiprocessor: packed_taken(). That one's kernel executes 173,000 warp instructions a block of Tiny's with
/// 197 tokens, this one 118,000 (compiled, counts times trips); an H200 takes 166.8 and 139.4 us for 256 sequences.
/// Here
///   - x has no scaled twin: scores of earlier blocks of 64 tokens take the factors of their columns, up to the start
///     of the warp's own block, so that nothing is decayed between blocks;
///   - taps lie in shared memory, halved and packed, once a block, and what a thread needs to find its numbers is kept;
///   - raw x has rows of the same pitch as x, a tensor map copies them, and a thread convolves six tokens at a time in
///     an order in which its warp reads from all banks;
///   - warps of short rows convolve x of the next unit while those of long rows are in the scan, into registers;
///   - where the mixer's numbers are bfloat16, x, B, C and the scores are halves and are convolved in pairs. A
///     half has three more bits: g of Tiny is wrong by 2.4e-3 instead of 3.0e-3 (emulated). Its range is smaller: what
///     is beyond 65504 of the projection, and 16 times that of a score, becomes that; a score times its step dt and
///     decay must be below it, else g is not finite, where tensor.cuh's is in bfloat16.
///
/// Fetching z of the next unit into L2 together with its raw x was slower (144.1 us), and so was loading it before the
/// tile on the diagonal is multiplied (150.5).
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/mixer_core/packed_fill.cuh>
#include <dm2/cuda/mixer_core/packed_scan.cuh>
#include <dm2/cuda/mixer_core/tensor.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// How the packed kernel computes, and how it copies.
struct packed_way {
  bool halves;  ///< x, B, C and scores are halves, convolved in pairs; else in float, and as tensor.cuh has them
  bool boxes;   ///< a tensor map copies raw x, on a Hopper; else each thread copies some rows. The bits are the same
};
/// What is taken: halves where the mixer's numbers are bfloat16. Where they are halves themselves, sums of four taps
/// stay in float: in halves g would be wrong by 5.6e-4 instead of 3.9e-4, and 9 % faster.
template <class T>
constexpr packed_way best_way(bool boxes) {
  return {.halves = std::is_same_v<T, __nv_bfloat16>, .boxes = boxes};
}

/// The constants of the packed kernel.
template <class T, mixer_shape M, packed_way Way>
struct packed_traits : traits<T, M> {
  using base = traits<T, M>;
  static constexpr bool packs = true, halves = Way.halves, boxes = Way.boxes;
  using inside = std::conditional_t<halves, __half, T>;
  static constexpr int score_shift = halves ? 4 : 0;
  static constexpr int raw_pitch = base::pitch;
  static constexpr int run = 6;                       ///< tokens that a thread convolves at a time
  static constexpr int tap_bytes = halves ? 48 : 80;  ///< of four channels, whole vectors of 16

  /// Whether a unit's x is convolved while longer rows' warps are in the scan of the one before: by what a box brought,
  /// a thread needs no barrier to see it. In float a run's numbers would not fit into registers.
  static constexpr bool ahead = halves && boxes;
  /// Threads that convolve: ahead those of the shortest rows, of which some have two runs and the longest rows' none.
  static constexpr int convolving = !ahead ? base::threads : base::columns > 48 ? 12 * 32 : 10 * 32;
  /// Whether the kernel can do this shape at all.
  static constexpr bool possible = base::possible && (!boxes || (base::vector == 8 && raw_pitch / 2 <= 256));
};

template <class T>
struct packed_arguments {
  arguments<T> core;
  tensor_map raw;  ///< of zxbcdt [B, L, projected], in boxes of a unit's raw x; nothing where threads copy
};

/// Raw x and decays of a block's units on their way to shared memory, one unit ahead.
template <class Tr>
struct raw_stage {
  using T = typename Tr::element;
  packed_arguments<T> const& p;
  whole_place<Tr> const& k;
  unsigned char* shared;

  [[nodiscard]] __device__ std::uint32_t phase() const { return shared_address(shared) + std::uint32_t(k.lay.phase); }
  /// Every thread calls it, once, behind a barrier: what was written to the place of raw x is done with.
  __device__ void begin() const {
    if constexpr (Tr::boxes) {
      if (threadIdx.x == 0) init_phases(phase(), 1), publish_phases();
      fence_copies();
      __syncthreads();
    }
  }
  __device__ void start(int unit) const {
    int const thread = thread_here();
    if constexpr (Tr::boxes) {
      if (thread == Tr::threads - 1) start_box(unit);  // of a warp that has a short row or none
    } else {
      stage_raw<Tr>(thread, k.sequence, k.at, k.lay, unit, 0, p.core.length, shared);
    }
    stage_decays<Tr>(Tr::threads - 1 - thread, k.lay, unit, k.decays_of(unit), shared);
    commit_copies();
  }
  /// This thread's part has landed, and the box.
  __device__ void wait(int unit) const {
    if constexpr (Tr::boxes) wait_phase(phase(), unsigned(unit - k.begin) % 2);
    wait_copies<0>();
  }

 private:
  /// Tokens -4 to the last tile's last, in memory's order: zeros outside of the sequence.
  __device__ void start_box(int unit) const {
    int const first = k.at.tokens_reversed ? p.core.length - k.lay.tokens : -Tr::before;
    arrive_expecting(phase(), (k.lay.tokens + Tr::before) * Tr::raw_pitch);
    load_box_of(shared_address(shared) + std::uint32_t(k.lay.raw), p.raw, int(blockIdx.z), first,
                k.at.x() + unit * Tr::width, phase());
  }
};

/// A block's units, once the scores are there.
template <class Tr>
__device__ inline void run_units(arguments<typename Tr::element> const& p, whole_place<Tr> const& k,
                                 raw_stage<Tr> const& stage, unsigned char* shared, float (&sums)[2]) {
  int const rank = k.tile + Tr::warps - k.tiles;  // of the warp, from the shortest rows' on
  convolved_place<Tr> const convolved{rank * 32 + int(threadIdx.x) % 32, k.at, k.lay};
  scan_places<Tr> own{p, k, shared};
#pragma unroll 1
  for (int unit = k.begin; unit < k.end; ++unit) {
    float const* const cum = reinterpret_cast<float const*>(shared + k.lay.vectors + unit % 2 * 8 * k.lay.tokens);
    stage.wait(unit);
    if constexpr (Tr::ahead) {
      convolved_ahead<Tr> x;
      x.make(convolved, k.lay, unit - k.begin, shared);
      __syncthreads();  // the scan of the unit before is done
      x.store(convolved, k.lay, shared);
    } else {
      __syncthreads();
      fill_packed<Tr>(convolved, k.lay, unit - k.begin, shared);
    }
    fill_block_factors<Tr>(Tr::threads - 1 - thread_here(), k.lay, cum, cum + k.lay.tokens, shared);
    __syncthreads();
    if (unit + 1 < k.end) stage.start(unit + 1);
    float const skip = reinterpret_cast<float const*>(shared + k.lay.skips)[unit - k.begin];
    if (k.tile >= 0) scan_packed<Tr>(p.length, k, own, cum, skip, shared, sums);
    own.advance();
  }
}

/// Grid (unit sets of all groups, 2, sequences).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    packed_kernel(__grid_constant__ packed_arguments<typename Tr::element> const all) {
  if constexpr (!Tr::boxes || hopper_code) {
    if constexpr (Tr::boxes) mark_hopper_code();
    unsigned char* const shared = dynamic_shared();
    arguments<typename Tr::element> const& p = all.core;
    whole_place<Tr> const k{p};
    direction_pointers const& parameters = p.direction[blockIdx.y];
    raw_stage<Tr> const stage{all, k, shared};
    prepare_whole(p, k, parameters, shared,
                  [&] { fill_packed_state<Tr>(k.sequence, k.at, parameters, k.lay, k.group, p.length, shared); });
    stage.begin();
    stage.start(k.begin);
    fill_taps<Tr>(k.at, parameters, k.lay, k.begin, k.end, shared);
    if constexpr (Tr::ahead) __syncthreads();  // a thread convolves with others' taps before it meets them again
    float sums[2] = {};
    run_units(p, k, stage, shared, sums);
    float* const vectors = reinterpret_cast<float*>(shared + k.lay.vectors);
    if (p.finish) __syncthreads();  // the decays' place is free
    if (k.tile >= 0)
      write_sums<Tr>(sums, k.tile, k.at, k.begin, k.end, k.first_row, p, 0, p.finish ? vectors : nullptr);
    if (!p.finish) return;
    __syncthreads();
    finish_rows<Tr>(p, k.at, k.first_row, k.group, 0, p.length, vectors);
  }
}

/// Whether the packed kernel does sequences of this length on this device.
template <class T, mixer_shape M, packed_way Way>
bool packed_fits(device_properties const& device, int length) {
  using Tr = packed_traits<T, M, Way>;
  if constexpr (Tr::possible) {
    int const tiles = (length + 15) / 16;
    if (tiles > Tr::most_tiles || layout<Tr>{tiles}.bytes + (Tr::boxes ? 128 : 0) > device.shared_per_block)
      return false;
    if constexpr (Tr::boxes) {
      static bool const compiled = has_hopper_code("mixer_core", packed_kernel<Tr>);
      return device.major == 9 && compiled;
    } else {
      return true;
    }
  } else {
    return false;
  }
}

/// As launch_whole(), by the packed kernel; packed_fits() must hold, and there are some sequences.
template <packed_way Way, precision P, mixer_shape M>
bool launch_packed(context<P>& ctx, element<P> const* zxbcdt, mixer_parameters<M, float const, space::device> const& p,
                   element<P>* g, scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  using Tr = packed_traits<element<P>, M, Way>;
  int const take = units_per_block(Tr::group_units, sequences * Tr::groups, ctx.device().multiprocessors);
  layout<Tr> const lay{(length + 15) / 16};
  packed_arguments<element<P>> all{arguments_of<P, M>(zxbcdt, p, g, scratch, length, take, finish), {}};
  if constexpr (Tr::boxes)
    all.raw = make_tensor_map(zxbcdt, {std::size_t(sequences), std::size_t(length), Tr::projected},
                              {lay.tokens + Tr::before, Tr::raw_pitch / 2, false});
  dim3 const grid(unsigned(Tr::units / take), 2, unsigned(sequences));
  launch("mixer_core", packed_kernel<Tr>, {grid, Tr::threads, std::size_t(lay.bytes)}, ctx.stream(), all);
  return all.core.finish;
}

/// Whether the packed kernel is taken for sequences of this length on this device: where it fits, but not where its
/// taps and D of a whole group leave room for one block a multiprocessor and tensor.cuh's has room for two.
template <class T, mixer_shape M, packed_way Way>
bool packed_taken(device_properties const& device, int length) {
  if (!packed_fits<T, M, Way>(device, length)) return false;
  int const tiles = (length + 15) / 16;
  auto const twice = [&](int bytes) { return 2 * (bytes + 1024) <= device.shared_per_sm; };
  return twice(layout<packed_traits<T, M, Way>>{tiles}.bytes + (Way.boxes ? 128 : 0)) ||
         !whole_fits<T, M>(device, length) || !twice(layout<traits<T, M>>{tiles}.bytes);
}

/// Whether the packed kernel is taken for this shape wherever one of the two is, so that the other is not compiled: no
/// device has less than 100 KB of shared memory a multiprocessor.
template <class T, mixer_shape M>
constexpr bool packed_suffices() {
  using Tr = packed_traits<T, M, best_way<T>(false)>;
  for (int tiles = 1; tiles <= Tr::most_tiles; ++tiles) {
    int const bytes = layout<Tr>{tiles}.bytes;
    if (bytes > layout<traits<T, M>>{tiles}.bytes && 2 * (bytes + 1024) > (100 << 10)) return false;
  }
  return true;
}

/// Whether sequences of this length are one segment on this device.
template <class T, mixer_shape M>
bool one_segment(device_properties const& device, int length) {
  return whole_fits<T, M>(device, length) || packed_fits<T, M, best_way<T>(false)>(device, length);
}

/// As launch_whole(), by the packed kernel where it is taken; one_segment() must hold. Which kernel it is, device,
/// shape and length decide, so that inference and training have the same bits.
template <precision P, mixer_shape M>
bool launch_one_segment(context<P>& ctx, element<P> const* zxbcdt,
                        mixer_parameters<M, float const, space::device> const& p, element<P>* g,
                        scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  using T = element<P>;
  if constexpr (packed_traits<T, M, best_way<T>(true)>::possible) {
    if (packed_taken<T, M, best_way<T>(true)>(ctx.device(), length))
      return launch_packed<best_way<T>(true), P, M>(ctx, zxbcdt, p, g, scratch, sequences, length, finish);
  }
  if constexpr (!packed_suffices<T, M>()) {
    if (!packed_taken<T, M, best_way<T>(false)>(ctx.device(), length))
      return launch_whole<P, M>(ctx, zxbcdt, p, g, scratch, sequences, length, finish);
  }
  return launch_packed<best_way<T>(false), P, M>(ctx, zxbcdt, p, g, scratch, sequences, length, finish);
}

}  // namespace dm2::cuda::detail::mixer_core
