/// @file
/// The scan's backward in the quadratic form: sequences of at most 256 tokens, in 16-bit numbers on the tensor cores.
///
/// With G = C B^T, c the sum of dt A up to and with a token, E_ij = exp(c_i - c_j) for i >= j, W_ij = dy_i . x_j:
///     U_j = sum_i G_ij E_ij dy_i        dx_j = dt_j U_j + D dy_j        dD = sum W_ii
///     dG_ij = sum over heads of E_ij dt_j W_ij        dC = dG B        dB = dG^T C
///     Gamma = G E dt W,  da_t = sum of Gamma_ij over i >= t > j,  d dt = x . U + A da,  dA = sum dt da
///
/// A block has one sequence and one group, in 16 x 16 tiles on and below the diagonal. Scores G are computed once and
/// stay in shared memory; dG stays in registers over all heads of the group, so that their sum is float's and in a fixed
/// order. Then for each unit, a head's columns:
///  1. Every tile: W, its part of dG, the sums of Gamma over the tile's rows, and G E to shared memory. Below the
///     diagonal, with e_J the sum c at the end of tile J, E_ij = exp(c_i - e_J) exp(e_J - c_j), both at most 1: two
///     exponentials a lane; the second factor is left out of G E and goes into U. On the diagonal G E is times dt_j, and
///     D is added to it.
///  2. Every 16 tokens: dx = (G E)^T dy, and with what comes from the tiles around d dt and the sums for A and D.
/// At the end dB and dC, from dG rounded to 16 bits.
///
/// da_t as sums over rectangles: inside t's tile (i, j both in it), rows i >= t of it with all tiles before, columns
/// j < t of it with all tiles after, and whole tiles around. Row sums minus column sums would lose digits.
///
/// Saved: nothing. Reads x and dy of a sequence once, B and C twice.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/ssd/backward_quadratic.cuh>

#include <cstddef>

namespace dm2::cuda::detail {
namespace scan {

/// Block: group + G sequence. Where at.stages is 2, the next unit's operands are copied while a unit is computed.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1)
    ssd_backward_quadratic_kernel(typename Tr::operands const p, backward_quadratic_layout<Tr> const at) {
  backward_quadratic_block<Tr> k{p, at, dynamic_shared()};
  warp_tiles<Tr> const tiles{k};
  score_tiles(k, tiles);
  bool const scanner = k.warp == Tr::warps - 1;  // the warp with the fewest products in finish_rows, or none
  if (scanner) scan_vectors(k, 0);
  unsigned char* const parts = parts_beside(k, (Tr::units - 1) & 1);  // of B and C, for dB and dC
  tile_sums<Tr> gradient;
  gradient.clear();
  float carried = 0;
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    wait_copies<0>();
    __syncthreads();  // the unit's operands and decays are there, those of the unit before are done with
    int const next = unit + k.at.stages - 1;
    if (next < Tr::units)
      copy_unit(k, next);
    else
      copy_part(k, parts, 0);
    commit_copies();
    if (k.at.stages == 1) {
      wait_copies<0>();
      __syncthreads();
    }
    hide(k.lane), hide(k.warp);  // else what depends on them alone is kept in registers from here to the loop's end
    float const skip = unit_tiles(k, tiles, unit, gradient);
    __syncthreads();
    hide(k.lane), hide(k.warp);
    if (k.has_tile()) finish_rows(k, unit, skip, carried);
    if (scanner && unit + 1 < Tr::units) scan_vectors(k, unit + 1);
  }
  store_tiles(k, tiles, gradient, 0);
  __syncthreads();
  if (k.at.stages == 1) copy_part(k, parts, 0);
  commit_copies();
  finish_states(k, parts);
  write_totals(k);
}

/// Bytes of shared memory of a block, with two units' operands where that fits.
template <class Tr>
backward_quadratic_layout<Tr> backward_quadratic_plan(int length, device_properties const& device) {
  backward_quadratic_layout<Tr> const two{length, 2};
  return Tr::units > 1 && two.bytes <= device.shared_per_block ? two : backward_quadratic_layout<Tr>{length, 1};
}

}  // namespace scan

/// The form, as backward_operands.cuh describes one.
template <mixer_shape M, class T>
struct ssd_backward_quadratic {
  /// Kernels are built for 16-bit numbers, heads and states of a multiple of 16.
  static constexpr bool possible = is_half<T> && M.headdim % 16 == 0 && M.d_state % 16 == 0;

  /// At most 256 tokens, pointers and rows at multiples of 16 bytes, and a block's shared memory: of Tiny or Small at
  /// 197 tokens 201 KB, or 154 KB with one unit's operands at a time.
  static bool fits(ssd_backward_operands<M, T> const& p, device_properties const& device) {
    if constexpr (possible)
      return p.length <= long_traits::most_tiles() * 16 && p.aligned() &&
             scan::backward_quadratic_plan<long_traits>(p.length, device).bytes <= device.shared_per_block;
    else
      return false;
  }
  /// Bytes of scratch that launch needs.
  static std::size_t scratch_bytes(int, int, device_properties const&) { return 0; }

  /// Enqueues the gradient. Only where fits(p, device); blocks may use device.shared_per_block bytes.
  static void launch(ssd_backward_operands<M, T> const& p, std::byte*, device_properties const& device,
                     cudaStream_t stream) {
    if (p.sequences == 0) return;
    if (p.length <= short_traits::most_tiles() * 16)
      enqueue<short_traits>(p, device, stream);
    else
      enqueue<long_traits>(p, device, stream);
  }

 private:
  using short_traits = scan::backward_quadratic_traits<M, T, 5>;  ///< for 13 tiles
  using long_traits = scan::backward_quadratic_traits<M, T, 8>;   ///< for 16

  template <class Tr>
  static void enqueue(ssd_backward_operands<M, T> const& p, device_properties const& device, cudaStream_t stream) {
    auto const plan = scan::backward_quadratic_plan<Tr>(p.length, device);
    detail::launch("ssd_backward_quadratic", scan::ssd_backward_quadratic_kernel<Tr>,
                   {dim3(unsigned(p.sequences * M.groups)), Tr::threads, std::size_t(plan.bytes)}, stream, p, plan);
  }
};

}  // namespace dm2::cuda::detail
