/// @file
/// The scan in the mixer's backward, from the projection itself.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/mixer_core/backward_gate.cuh>
#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/mixer_core/backward_plan.cuh>
#include <dm2/cuda/ssd_backward.cuh>

namespace dm2::cuda::detail::mixer_core {

/// What is in front of a direction's scan.
template <class Dir>
ssd::scan_front front_of(direction_parameters const& p) {
  return {.taps = p.conv,
          .bias = p.conv_bias,
          .dt_bias = p.dt_bias,
          .a_log = p.a_log,
          .d = p.d,
          .x = Dir::conv + Dir::x,
          .b = Dir::conv + Dir::b,
          .c = Dir::conv + Dir::c,
          .dt = Dir::dt,
          .convolved = Dir::conv,
          .channels_reversed = Dir::reverse_channels,
          .tokens_reversed = Dir::reverse_tokens};
}

/// Whether the scans' backward takes the projection, and so makes x, B, C and dt itself. V: channels of an access of
/// the gate, which has to be undone, since no x is there to compute y from.
template <mixer_shape M, class T, int V>
bool scan_convolves([[maybe_unused]] T const* zxbcdt, [[maybe_unused]] int length,
                    [[maybe_unused]] device_properties const& device) {
  using form = ssd::backward_projected<M, T>;
  if constexpr (form::possible && gate_is_undone<T> && gate_group<backward_traits<M, V>>::possible)
    return form::fits(zxbcdt, length, device);
  return false;
}

/// Operands of both directions' scans, whose B, C and dt go where `of` has their gradients and steps.
template <mixer_shape M, class T>
ssd::projected_operands<M, T> projected_operands(ssd::backward_operands<M, T> const& of, T const* projection,
                                                 float* steps, direction_pair const& parameters) {
  ssd::projected_operands<M, T> p{};
  static_cast<ssd::backward_operands<M, T>&>(p) = of;
  p.projection = projection, p.steps = steps;
  p.front[0] = front_of<direction_traits<M, false>>(parameters.direction[0]);
  p.front[1] = front_of<direction_traits<M, true>>(parameters.direction[1]);
  return p;
}

}  // namespace dm2::cuda::detail::mixer_core
