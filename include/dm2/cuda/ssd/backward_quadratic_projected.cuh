/// @file
/// The quadratic scan's backward from a mixer's projection.
///
/// The kernel of backward_quadratic.cuh, which makes x, B, C and dt itself: no kernel before it writes them, and x is
/// never in memory. Always two units are in shared memory. d dt and the sum for A are added up in another order than
/// from x, B, C and dt: row by row of tiles. All other results are the same bits.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_quadratic.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// The form; B, C and dt are made at a block's start by all warps, a unit's x by the free warps, beside the tiles of
/// the unit before. dx may be dy, since a block has copied what it overwrites, and no other one reads it.
template <mixer_shape M, class T>
struct backward_projected {
  using traits = backward_projected_traits<M, T>;

  /// As for backward_quadratic. Both halves of B and C have to be there at a time, and copies are of 16 bytes in rows
  /// whose slices start at multiples of the heads.
  static constexpr bool possible =
      backward_quadratic<M, T>::possible && M.heads % 8 == 0 && M.d_state <= 128 && M.d_conv <= 4;

  /// At most 208 tokens and a block's shared memory, of Tiny or Small at 197 tokens 209 KB; a projection at a multiple
  /// of 16 bytes.
  static bool fits(T const* projection, int length, device_properties const& device) {
    if constexpr (possible)
      return length <= traits::most_tiles * 16 && plan(length).bytes <= device.shared_per_block &&
             reinterpret_cast<std::uintptr_t>(projection) % 16 == 0;
    else
      return false;
  }

  /// Enqueues the gradient, without scratch. Only where this fits, and every row of p at a multiple of 16 bytes.
  static void launch(projected_operands<M, T> const& p, cudaStream_t stream) {
    if (p.sequences == 0) return;
    detail::launch("ssd_backward_quadratic, from the projection", backward_quadratic_kernel<traits>,
                   {dim3(unsigned(p.sequences * M.groups)), traits::threads, std::size_t(plan(p.length).bytes)}, stream,
                   p, plan(p.length));
  }

 private:
  static backward_quadratic_layout<traits> plan(int length) { return {length, 2}; }
};

}  // namespace dm2::cuda::detail::ssd
