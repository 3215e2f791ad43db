/// @file
/// The quadratic scan's backward, always with two units in shared memory.
///
/// The kernel of backward_quadratic.cuh, without what it does where there is room for one unit's only. It may take a
/// mixer's projection instead of x, B, C and dt, and make them itself: no kernel before it writes them, and x is never
/// in memory. Results are the same bits from the same numbers.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_quadratic.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// Input says where x, B and C come from. Of a projection, B, C and dt are made at a block's start by all warps.
template <mixer_shape M, class T, quadratic_input Input>
struct backward_quadratic_two_units {
  static_assert(Input != quadratic_input::ready);
  using traits = two_units_traits<M, T, 6, Input>;
  using operands = typename traits::operands;

  /// As for backward_quadratic. Of a projection both halves of B and C have to be there at a time, and copies are of 16
  /// bytes in rows whose slices start at multiples of the heads.
  static constexpr bool possible = backward_quadratic<M, T>::possible &&
                                   (!traits::projected || (M.heads % 8 == 0 && M.d_state <= 128 && M.d_conv <= 4));

  /// At most 208 tokens and a block's shared memory; everything at multiples of 16 bytes. Of a projection, B, C and dt
  /// go where their gradients and the scan's steps are.
  static bool fits(operands const& p, device_properties const& device) {
    if constexpr (possible)
      return p.length <= traits::most_tiles * 16 && p.aligned() && plan(p.length).bytes <= device.shared_per_block &&
             made_in_place(p);
    else
      return false;
  }

  /// Enqueues the gradient. Only where fits(p, device).
  static void launch(operands const& p, device_properties const&, cudaStream_t stream) {
    if (p.sequences == 0) return;
    detail::launch("ssd_backward_quadratic, two units", backward_quadratic_kernel<traits>,
                   {dim3(unsigned(p.sequences * M.groups)), traits::threads, std::size_t(plan(p.length).bytes)}, stream,
                   p, plan(p.length));
  }

 private:
  static backward_quadratic_layout<traits> plan(int length) { return {length, 2}; }
  static bool made_in_place([[maybe_unused]] operands const& p) {
    if constexpr (traits::projected)
      return p.b == p.db && p.c == p.dc && p.dt == p.steps && p.sequences == 2 * p.set_size &&
             reinterpret_cast<std::uintptr_t>(p.projection) % 16 == 0;
    return true;
  }
};

}  // namespace dm2::cuda::detail::ssd
