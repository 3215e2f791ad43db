/// @file
/// A mixer's backward on the device beside the same in double.
#pragma once

#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>

#include <doctest/doctest.h>

#include "cpu/mixer_case.hpp"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace dm2::test {

/// A mixer_case whose numbers the device can hold, their copies there, and the gradients.
template <cuda::precision P, mixer_shape M>
struct backward_mixer {
  using T = cuda::element<P>;
  static constexpr std::size_t second_d = mixer_case<M>::second_d;
  mixer_case<M> host;
  cuda::context<P> ctx;
  std::array<std::array<device_array<float>, 6>, 2> p, grad;
  device_array<T> in, dg, din, g;
  device_array<float> factors;

  backward_mixer(int sequences, int tokens) : host{sequences, tokens, 2} {
    host.in = rounded<T>(host.in), host.dg = rounded<T>(host.dg);
    in = device_array<T>{host.in}, dg = device_array<T>{host.dg};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t k = 0; k < 6; ++k) {
        host.p[i][k] = rounded<float>(host.p[i][k]);
        p[i][k] = device_array<float>{host.p[i][k]};
      }
    poison();
  }
  void poison() {
    din = device_array<T>{host.in.size()};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t k = 0; k < 6; ++k) grad[i][k] = device_array<float>{std::vector<double>(host.p[i][k].size())};
  }
  template <class N>
  static mixer_direction<M, N, space::device> direction(std::array<device_array<float>, 6> const& v,
                                                        device_array<float> const& d) {
    constexpr int C = M.conv_dim();
    return {v[0].template as_block<C, 1, M.d_conv>(), v[1].template as_block<C>(),
            v[2].template as_block<M.heads>(),        v[3].template as_block<M.heads>(),
            d.template as_block<M.heads>(),           v[5].template as_block<M.d_inner()>()};
  }
  [[nodiscard]] mixer_parameters<M, float const, space::device> parameters() const {
    return {direction<float const>(p[0], p[0][4]), direction<float const>(p[1], p[second_d][4])};
  }
  /// What the forward leaves for backward(true).
  void forward() {
    g = device_array<T>{host.dg.size()};
    factors = device_array<float>{host.count() * 2 * M.groups};
    cuda::mixer_core<M>(ctx, in.template as_rows<M.projected()>(), parameters(), g.template as_rows<2 * M.d_inner()>(),
                        host.length, factors.data());
    CHECK(factors.margins_untouched());
  }
  [[nodiscard]] mixer_parameters<M, float, space::device> gradients() const {
    return {direction<float>(grad[0], grad[0][4]), direction<float>(grad[1], grad[second_d][4])};
  }
  [[nodiscard]] cuda::mixer_left<M, P> left(bool there) const {
    if (!there) return {};
    return {g.template as_rows<2 * M.d_inner()>(), factors.data()};
  }
  void backward(bool from_left = false) {
    cuda::mixer_core_backward<M>(ctx, in.template as_rows<M.projected()>(), parameters(),
                                 dg.template as_rows<2 * M.d_inner()>(), din.template as_rows<M.projected()>(),
                                 gradients(), host.length, left(from_left));
  }
  /// The same from what the forward left, with x, B and C of the scan's backward from a kernel of their own.
  void backward_ready() {
    cuda::detail::mixer_core::run_backward<M>(
        ctx, in.template as_rows<M.projected()>(), parameters(), dg.template as_rows<2 * M.d_inner()>(),
        din.template as_rows<M.projected()>(), gradients(), host.length, left(true), false);
  }
  [[nodiscard]] std::vector<double> bits() const {
    std::vector<double> all = din.read();
    for (auto const& one : grad)
      for (auto const& part : one) {
        auto const numbers = part.read();
        all.insert(all.end(), numbers.begin(), numbers.end());
      }
    return all;
  }
  /// Against double. In 16 bits x, B, C, y, dy and their gradients are rounded between kernels, dzxbcdt once more by
  /// the second direction. In bfloat16 with and without what the forward left.
  void check(double allowed = P == cuda::precision::bf16 ? 3e-2 : P == cuda::precision::fp16 ? 8e-3 : 4e-5) {
    CAPTURE(host.length);
    CAPTURE(M.headdim);
    host.backward();
    backward();
    compare(allowed);
    if (P != cuda::precision::bf16) return;
    forward();
    poison();
    backward(true);
    compare(allowed);
  }
  void compare(double allowed) {
    near("dzxbcdt", din, host.din, 0, allowed);
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t k = 0; k < 6; ++k)
        near(direction_names[k] + (i == 0 ? "" : "_b"), grad[i][k], host.grad[i][k], norm_of(host.grad[i][5]), allowed);
  }
  static double norm_of(std::vector<double> const& x) {
    double sum = 0;
    for (double v : x) sum += v * v;
    return std::sqrt(sum);
  }
  /// Gradients that nearly cancel (a head's scale does not matter to the norm behind it, so that of D may be all
  /// rounding) are held against a tenth of the norm's weights'.
  template <class A>
  void near(std::string const& name, A const& got, std::vector<double> const& want, double norms, double allowed) {
    CAPTURE(name);
    double const size = norm_of(want), whole = std::max(size, 0.1 * norms);
    double const error = relative_error(got.read(), want) * (size == 0 ? 1 : size) / (whole == 0 ? 1 : whole);
    CAPTURE(error);
    CHECK(error < allowed);
    CHECK(got.margins_untouched());
  }
};

}  // namespace dm2::test
