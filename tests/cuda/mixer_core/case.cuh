/// @file
/// One mixer between its projections, on the CPU in double and on the GPU.
#pragma once

#include <dm2/cuda/mixer_core.cuh>

#include "cpu/mixer_case.hpp"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <cstddef>

namespace dm2::test {

/// The parameters of one direction on the device, rounded to float on the host as well.
template <mixer_shape M>
struct device_direction {
  device_array<float> p[6];

  explicit device_direction(direction_numbers& host) {
    for (std::size_t k = 0; k < 6; ++k) {
      host[k] = rounded<float>(host[k]);
      p[k] = device_array<float>{host[k]};
    }
  }
  [[nodiscard]] mixer_direction<M, float const, space::device> view(device_array<float> const& d) const {
    constexpr int C = M.conv_dim();
    return {p[0].template as_block<C, 1, M.d_conv>(), p[1].template as_block<C>(),
            p[2].template as_block<M.heads>(),        p[3].template as_block<M.heads>(),
            d.template as_block<M.heads>(),           p[5].template as_block<M.d_inner()>()};
  }
};

template <cuda::precision P, mixer_shape M>
struct device_mixer {
  using T = cuda::element<P>;
  mixer_case<M> host;
  cuda::context<P> ctx;
  device_direction<M> first, second;
  device_array<T> in, g;

  device_mixer(int sequences, int tokens)
      : host{prepared(sequences, tokens)}, first{host.p[0]}, second{host.p[1]}, in{host.in}, g{host.g.size()} {}

  static mixer_case<M> prepared(int sequences, int tokens) {
    mixer_case<M> f{sequences, tokens, 2};
    f.in = rounded<T>(f.in);
    return f;
  }
  [[nodiscard]] mixer_parameters<M, float const, space::device> parameters() const {
    return {first.view(first.p[4]), second.view(mixer_case<M>::second_d == 0 ? first.p[4] : second.p[4])};
  }
  void forward() {
    cuda::mixer_core<M>(ctx, in.template as_rows<M.projected()>(), parameters(), g.template as_rows<2 * M.d_inner()>(),
                        host.length);
  }
};

inline constexpr mixer_shape tiny_mixer{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape small_mixer{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};
inline constexpr mixer_shape small_state{
    .heads = 8, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4, .variant = mixer_variant::bidirectional};
inline constexpr mixer_shape four_heads{.heads = 4, .headdim = 64, .d_state = 64, .groups = 1, .d_conv = 3};

}  // namespace dm2::test
