/// @file
/// The mixer between its projections as one kernel: convolution, SiLU, scan and gate of one direction of one sequence a
/// block, for sequences of at most 224 tokens in 16-bit numbers.
///
/// The scan is the quadratic form of state-space duality. S = C B^T is made once for all heads and kept in shared
/// memory as fragments of the tensor cores. Tokens go in blocks of 64: for an earlier block J, exp(c_i - c_j) is split
/// at e_J, the decay's sum at J's end, so that S multiplies X'_j = dt_j exp(e_J - c_j) x_j as it is; inside a block the
/// difference is taken before exp. Both factors of the split are at most 1.
///
/// The gated RMSNorm needs the sum of squares over all heads. A block that has made whole rows norms them at its end,
/// while the cache still has them; or the kernel leaves what is to be normed and the sums, and the reader applies the rest:
/// the output projection commutes with a factor a row.
///
/// 14 warps of 72 registers, two blocks a multiprocessor: a warp has 16 tokens. The kernel waits, for shared memory above
/// all, so it wants many warps: 8 of 32 tokens and 128 registers took 229 us for 256 sequences of 197 tokens, these 185.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/mixer_core_fill.cuh>
#include <dm2/cuda/mixer_core_gate.cuh>
#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mixer_core_scan.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/packet.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The tile that warp w has, another for each, negative where there is none left: longest rows first, the second four warps
/// in the other order, since a scheduler has every fourth warp.
__device__ inline int tile_of_warp(int warp, int tiles) { return warp / 4 == 1 ? tiles - 12 + warp : tiles - 1 - warp; }

/// Grid (unit sets of all groups, 2, sequences).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    mixer_core_kernel(__grid_constant__ mixer_core_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  unsigned char* const shared = dynamic_shared();
  int const lane = int(threadIdx.x) % 32, second = int(blockIdx.y), tiles = (p.length + 15) / 16;
  int const r = tile_of_warp(int(threadIdx.x) / 32, tiles);
  std::size_t const first_row = std::size_t(blockIdx.z) * std::size_t(p.length);
  T const* const sequence = p.zxbcdt + first_row * Tr::projected;
  direction_slices<Tr> const at{second == 1};
  mixer_direction_pointers const& parameters = p.direction[second];
  mixer_core_layout<Tr> const lay{tiles};
  float* const vectors = reinterpret_cast<float*>(shared + lay.vectors);
  float* const decays = p.decays + (blockIdx.z * std::size_t{2} + blockIdx.y) * std::size_t(Tr::heads * 2 * lay.tokens);
  int const begin = int(blockIdx.x) * p.units_per_block, end = begin + p.units_per_block;
  auto const head_decays_of = [&](int unit) { return decays + unit / Tr::per_head * 2 * lay.tokens; };
  int const group = Tr::groups == 1 ? 0 : begin / Tr::group_units;

  fill_state<Tr>(sequence, at, parameters, lay, group, 0, p.length, shared);
  __syncthreads();
  std::uint32_t a[Tr::state / 16][4];
  if (r >= 0) {
#pragma unroll
    for (int k = 0; k < Tr::state / 16; ++k)
      load_matrix(a[k], shared_address(shared) +
                            std::uint32_t(lay.c + state_offset<Tr>(r * 16 + lane % 16, 2 * k + lane / 16)));
  }
  __syncthreads();
  if (r >= 0) fill_scores<Tr>(a, r, lay, shared);
  int const rank = r + Tr::warps - tiles;  // the shortest rows' warps make the decays meanwhile
  fill_decays<Tr>(sequence, at, parameters, rank, begin / Tr::per_head, (end - 1) / Tr::per_head, 0, p.length,
                  lay.tokens, head_decays_of(begin));
  __syncthreads();

  stage_unit<Tr>(sequence, at, lay, begin, 0, p.length, head_decays_of(begin), shared);

  float sums[2] = {};
#pragma unroll 1
  for (int unit = begin; unit < end; ++unit) {
    float const* const cum = vectors + unit % 2 * 2 * lay.tokens;
    float const* const ev = cum + lay.tokens;
    // Loaded before the barrier, so that the wait for them is the wait for the others.
    int const thread = thread_here();
    unit_columns<Tr> const own{thread};
    channel_taps<Tr> const taps{at, at.conv_channel(at.x(), unit * Tr::width + own.first), own.gap, parameters};
    wait_copies<0>();
    __syncthreads();
    fill_unit<Tr>(thread, own, taps, lay, cum, ev, shared);
    __syncthreads();
    if (unit + 1 < end) stage_unit<Tr>(sequence, at, lay, unit + 1, 0, p.length, head_decays_of(unit + 1), shared);
    if (r >= 0) {
      float acc[2 * Tr::column_groups][4] = {};
      unit_operands<Tr> const in{r, lay, shared};
      scan_before<Tr>(acc, r / 4, in, cum, nullptr);
      scan_own<Tr>(acc, r, in, cum, ev, parameters.d[at.head(unit / Tr::per_head)]);
      gate_rows<Tr> const gate{r, at, unit, sequence, p.length};
      gate.write(acc, r, at, second, unit, first_row, p, sums);
    }
  }
  if (p.finish) __syncthreads();  // the decays' place is free
  if (r >= 0) write_sums<Tr>(sums, r, at, second, begin, end, first_row, p, 0, p.finish ? vectors : nullptr);
  if (p.finish) {
    __syncthreads();
    finish_rows<Tr>(p, at, first_row, second, group, 0, p.length, vectors);
  }
}

/// Whether the kernel does sequences of this length on this device.
template <class T, mixer_shape M>
bool mixer_core_whole_fits(device_properties const& device, int length) {
  using Tr = mixer_core_traits<T, M>;
  int const tiles = (length + 15) / 16;
  return Tr::possible && tiles <= Tr::most_tiles && mixer_core_layout<Tr>{tiles}.bytes <= device.shared_per_block;
}

/// Whether taps and norms can be read four numbers at a time. A model's can: every tensor of a state starts at 256 bytes.
template <mixer_shape M>
bool mixer_core_aligned(mixer_parameters<M, float const, space::device> const& p) {
  return packets_at<4>(p.forward.conv.data) && packets_at<4>(p.backward.conv.data) &&
         packets_at<4>(p.forward.norm.data) && packets_at<4>(p.backward.norm.data);
}

/// Units of its `units` a block takes, one for each group and sequence: all, where that fills the device; else fewer, at the price of making S more than once.
inline int units_per_block(int units, int sequences, int multiprocessors) {
  int take = units;
  while (take % 2 == 0 && 2 * sequences * (units / take) < 2 * multiprocessors * 9 / 10) take /= 2;
  return take;
}

/// One direction's parameters as the kernels read them.
template <mixer_shape M>
mixer_direction_pointers mixer_core_pointers(mixer_direction<M, float const, space::device> const& d) {
  return {d.conv.data, d.conv_bias.data, d.dt_bias.data, d.a_log.data, d.d.data};
}

/// The kernels' arguments; `take` units a block.
template <precision P, mixer_shape M>
mixer_core_arguments<element<P>> mixer_core_whole_arguments(element<P> const* zxbcdt,
                                                            mixer_parameters<M, float const, space::device> const& p,
                                                            element<P>* g,
                                                            mixer_core_scratch<element<P>, M> const& scratch,
                                                            int length, int take, bool finish) {
  return {zxbcdt,
          g,
          scratch.squares,
          scratch.decays,
          {mixer_core_pointers(p.forward), mixer_core_pointers(p.backward)},
          length,
          take,
          {p.forward.norm.data, p.backward.norm.data},
          finish && take == mixer_core_traits<element<P>, M>::group_units};
}

/// Sequences in one segment: see mixer_core_fused(). mixer_core_whole_fits() must hold.
template <precision P, mixer_shape M>
bool mixer_core_whole(context<P>& ctx, element<P> const* zxbcdt,
                      mixer_parameters<M, float const, space::device> const& p, element<P>* g,
                      mixer_core_scratch<element<P>, M> const& scratch, int sequences, int length, bool finish) {
  using Tr = mixer_core_traits<element<P>, M>;
  int const take = units_per_block(Tr::group_units, sequences * Tr::groups, ctx.device().multiprocessors);
  auto const arguments = mixer_core_whole_arguments<P, M>(zxbcdt, p, g, scratch, length, take, finish);
  int const bytes = mixer_core_layout<Tr>{(length + 15) / 16}.bytes;
  dim3 const grid(unsigned(Tr::units / take), 2, unsigned(sequences));
  launch("mixer_core", mixer_core_kernel<Tr>, {grid, Tr::threads, std::size_t(bytes)}, ctx.stream(), arguments);
  return arguments.finish;
}

}  // namespace dm2::cuda::detail
