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
/// while the cache still has them; or the kernel leaves what is to be normed and each unit's sum, and the reader applies
/// the rest: the output projection commutes with a factor a row.
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

/// Grid (unit sets, 2, sequences). Warp 4 makes the decays; the others take 32 tokens each, the longest rows on the
/// first four warps and the shortest on the last three, so that a scheduler's two warps have equal work together.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    mixer_core_kernel(__grid_constant__ mixer_core_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  unsigned char* const shared = dynamic_shared();
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, second = int(blockIdx.y);
  int const tiles = (p.length + 15) / 16, pairs = (tiles + 1) / 2;
  int const q = warp < 4 ? pairs - 1 - warp : warp > 4 && warp - 5 < pairs - 4 ? warp - 5 : -1;
  std::size_t const first_row = std::size_t(blockIdx.z) * std::size_t(p.length);
  T const* const sequence = p.zxbcdt + first_row * Tr::projected;
  direction_slices<Tr> const at{second == 1};
  mixer_direction_pointers const& parameters = p.direction[second];
  mixer_core_layout<Tr> const lay{tiles};
  float* const vectors = reinterpret_cast<float*>(shared + lay.vectors);
  int const begin = int(blockIdx.x) * p.units_per_block, end = begin + p.units_per_block;

  fill_state<Tr>(sequence, at, parameters, lay, p.length, shared);
  if (warp == 4) {
    int const head = begin / Tr::per_head;
    float* const cum = vectors + head % 2 * 2 * lay.tokens;
    fill_decay<Tr>(sequence, at, parameters, head, p.length, lay.tokens, cum, cum + lay.tokens);
  }
  __syncthreads();
  std::uint32_t a[Tr::state / 16][2][4];
  if (q >= 0) {
#pragma unroll
    for (int k = 0; k < Tr::state / 16; ++k)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        int const row = min(q * 32 + m * 16 + lane % 16, lay.tokens - 1);
        load_matrix(a[k][m], shared_address(shared) + std::uint32_t(lay.c + state_offset<Tr>(row, 2 * k + lane / 16)));
      }
  }
  __syncthreads();
  if (q >= 0) fill_scores<Tr>(a, q, tiles, lay, shared);
  __syncthreads();

  stage_unit<Tr>(sequence, at, lay, begin, p.length, shared);

#pragma unroll 1
  for (int unit = begin; unit < end; ++unit) {
    int const head = unit / Tr::per_head;
    float* const cum = vectors + head % 2 * 2 * lay.tokens;
    float* const ev = cum + lay.tokens;
    // Loaded before the barrier, so that the wait for them is the wait for the others.
    channel_taps<Tr, 4> const taps{at, at.conv_channel(at.x(), unit * Tr::columns + unit_column<Tr>()), parameters};
    wait_copies<0>();
    __syncthreads();
    fill_unit<Tr>(taps, lay, cum, ev, shared);
    __syncthreads();
    if (unit + 1 < end) stage_unit<Tr>(sequence, at, lay, unit + 1, p.length, shared);
    if (q >= 0) {
      float acc[2][2 * Tr::column_groups][4] = {};
      unit_operands<Tr> const in{q, tiles, lay, shared};
      scan_before<Tr>(acc, q / 2, in, cum);
      scan_own<Tr>(acc, q, tiles, in, lay, cum, ev, parameters.d[at.head(head)]);
      gate_rows<Tr> const gate{q, at, unit, sequence, p.length};
      gate.write(acc, q, at, second, unit, first_row, p);
    } else if (warp == 4 && unit + 1 < end && (unit + 1) / Tr::per_head != head) {
      float* const next = vectors + (head + 1) % 2 * 2 * lay.tokens;
      fill_decay<Tr>(sequence, at, parameters, head + 1, p.length, lay.tokens, next, next + lay.tokens);
    }
  }
  if (p.finish) {
    __syncthreads();
    finish_rows<Tr>(p, first_row, second, vectors);
  }
}

/// Whether the kernel does sequences of this length on this device.
template <class T, mixer_shape M>
bool mixer_core_fits(device_properties const& device, int length) {
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

/// Units a block takes: all, where that fills the device; else fewer, at the price of making S more than once.
inline int units_per_block(int units, int sequences, int multiprocessors) {
  int take = units;
  while (take % 2 == 0 && 2 * sequences * (units / take) < 2 * multiprocessors * 9 / 10) take /= 2;
  return take;
}

/// With `finish`, where a block makes whole rows, g as mixer_core has it, with the norms' weights unless they are views
/// of nothing; true then. Else g before its norm, and squares [B L, 2, units], each unit's sum of g^2: g / sqrt(their
/// sum / inner + 1e-5) norm is what the output projection reads. mixer_core_fits() and mixer_core_aligned() must hold.
template <precision P, mixer_shape M>
bool mixer_core_fused(context<P>& ctx, element<P> const* zxbcdt,
                      mixer_parameters<M, float const, space::device> const& p, element<P>* g, float* squares,
                      int sequences, int length, bool finish) {
  using Tr = mixer_core_traits<element<P>, M>;
  auto const pointers = [](mixer_direction<M, float const, space::device> const& d) {
    return mixer_direction_pointers{d.conv.data, d.conv_bias.data, d.dt_bias.data, d.a_log.data, d.d.data};
  };
  int const take = units_per_block(Tr::units, sequences, ctx.device().multiprocessors);
  bool const whole = finish && take == Tr::units;
  mixer_core_arguments<element<P>> const arguments{zxbcdt,
                                                   g,
                                                   squares,
                                                   {pointers(p.forward), pointers(p.backward)},
                                                   length,
                                                   take,
                                                   {p.forward.norm.data, p.backward.norm.data},
                                                   whole};
  int const bytes = mixer_core_layout<Tr>{(length + 15) / 16}.bytes;
  dim3 const grid(unsigned(Tr::units / take), 2, unsigned(sequences));
  launch("mixer_core", mixer_core_kernel<Tr>, {grid, Tr::threads, std::size_t(bytes)}, ctx.stream(), arguments);
  return whole;
}

}  // namespace dm2::cuda::detail
