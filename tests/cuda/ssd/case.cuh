/// @file
/// Operands of a scan on the device, rounded from those of ssd_case, and the shapes that the scan's tests share.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/cuda/ssd.cuh>

#include "cpu/ssd_case.hpp"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <utility>

namespace dm2::test {

/// Shapes of a scan.
namespace scan_shapes {
inline constexpr mixer_shape tiny{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape small{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};
/// Tiny's heads, but few of them.
inline constexpr mixer_shape few{.heads = 2, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
/// Heads in two slices.
inline constexpr mixer_shape sliced{.heads = 2, .headdim = 96, .d_state = 64, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape square{.heads = 4, .headdim = 64, .d_state = 64, .groups = 2, .d_conv = 4};
inline constexpr mixer_shape least{.heads = 4, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4};
/// One head a group, so that a block has no second unit, and an odd number of 16s in both sizes.
inline constexpr mixer_shape lone{.heads = 2, .headdim = 48, .d_state = 48, .groups = 2, .d_conv = 4};
/// A unit's operands are smaller than a part of B and C.
inline constexpr mixer_shape narrow{.heads = 3, .headdim = 16, .d_state = 32, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape widest{.heads = 1, .headdim = 128, .d_state = 256, .groups = 1, .d_conv = 4};
/// Heads that 16 does not divide: those of the README's own model; and in three slices of 24 columns.
inline constexpr mixer_shape padded{.heads = 8, .headdim = 24, .d_state = 128, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape padded_slices{.heads = 2, .headdim = 72, .d_state = 48, .groups = 2, .d_conv = 4};
/// More states and more channels than a block's product has columns.
inline constexpr mixer_shape large{.heads = 1, .headdim = 70, .d_state = 131, .groups = 1, .d_conv = 4};
}  // namespace scan_shapes

/// f with numbers that the device can hold: x, B, C and dy of T, the others of float.
template <class T, mixer_shape M>
ssd_case<M> rounded_case(ssd_case<M> f) {
  for (auto* v : {&f.x, &f.b, &f.c, &f.dy}) *v = rounded<T>(*v);
  for (auto* v : {&f.dt, &f.a, &f.d}) *v = rounded<float>(*v);
  return f;
}

/// A batch's operands on the device, and the batch in double.
template <mixer_shape Shape, class Number>
struct scan_operands {
  static constexpr mixer_shape M = Shape;
  static constexpr int width = M.d_inner(), state = M.groups * M.d_state;
  using T = Number;
  ssd_case<M> host;
  device_array<T> x, b, c;
  device_array<float> dt, a, d;

  explicit scan_operands(ssd_case<M> f)
      : host{rounded_case<T>(std::move(f))}, x{host.x}, b{host.b}, c{host.c}, dt{host.dt}, a{host.a}, d{host.d} {}

  [[nodiscard]] cuda::ssd_input<M, T> input() const {
    return {x.template as_rows<width>(),
            dt.template as_rows<M.heads>(),
            a.template as_block<M.heads>(),
            b.template as_rows<state>(),
            c.template as_rows<state>(),
            d.template as_block<M.heads>(),
            host.length};
  }
};

}  // namespace dm2::test
