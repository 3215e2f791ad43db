/// @file
/// An attention_case whose numbers the device can hold, and their copies there.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/cuda/context.cuh>

#include <doctest/doctest.h>

#include "cpu/attention_case.hpp"
#include "cuda/support/device_array.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cstddef>

namespace dm2::test {

/// Operands and gradients of an attention core. The gradients of taps and bias start at multiples of 1/4.
template <cuda::precision P, attention_shape A>
struct device_attention {
  using T = cuda::element<P>;
  static constexpr int width = A.width(), taps = A.d_conv;
  /// A rounding of q and k moves each score by some of its size, before exp; that of a weight and its slope's rounding
  /// pass to dq and dk; their rounding passes to the convolution's sums.
  static constexpr double tolerance = 4 * product_tolerance<P>;
  attention_case<A> host;
  cuda::context<P> ctx;
  device_array<T> qkv, dy, y, dqkv;
  device_array<float> conv, bias, dconv, dbias;

  /// Of numbers of deviation `scale`.
  device_attention(int sequences, int tokens, double scale = 1) : host{sequences, tokens, 2} {
    for (double& v : host.qkv) v *= scale;
    host.qkv = rounded<T>(host.qkv);
    host.dy = rounded<T>(host.dy);
    host.conv = rounded<float>(host.conv);
    host.bias = rounded<float>(host.bias);
    for (std::size_t i = 0; i < host.dconv.size(); ++i) host.dconv[i] = double(i % 7) / 4;
    for (std::size_t i = 0; i < host.dbias.size(); ++i) host.dbias[i] = double(i % 5) / 4;
    upload();
  }
  /// Copies the host's numbers to the device, and poisons the results.
  void upload() {
    qkv = device_array<T>{host.qkv};
    dy = device_array<T>{host.dy};
    conv = device_array<float>{host.conv};
    bias = device_array<float>{host.bias};
    poison();
  }
  /// Poisons y and dqkv; the sums of dconv and dbias begin anew.
  void poison() {
    y = device_array<T>{host.y.size()};
    dqkv = device_array<T>{host.dqkv.size()};
    dconv = device_array<float>{host.dconv};
    dbias = device_array<float>{host.dbias};
  }
  [[nodiscard]] attention_parameters<A, float, space::device> gradients() const {
    if constexpr (taps == 0)
      return {};
    else
      return {dconv.template as_block<3 * width, 1, taps>(), dbias.template as_block<3 * width>()};
  }
  /// The gradients against the CPU's in double.
  void check_gradients(double allowed) {
    host.backward();
    CHECK(relative_error(dqkv.read(), host.dqkv) < allowed);
    CHECK(dqkv.margins_untouched());
    if constexpr (taps != 0) {
      CHECK(relative_error(dconv.read(), host.dconv) < allowed);
      CHECK(relative_error(dbias.read(), host.dbias) < allowed);
      CHECK(dconv.margins_untouched());
      CHECK(dbias.margins_untouched());
    }
  }
};

}  // namespace dm2::test
