/// @file
/// A stem on the device beside its oracle in double.
#pragma once

#include <dm2/cuda/stem.cuh>

#include "cpu/stem_case.hpp"
#include "cuda/support/device_array.cuh"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2::test {

/// The CPU's case with numbers that the device holds too, and those on the device.
template <stem_shape S, cuda::precision P>
struct device_stem {
  using T = cuda::element<P>;
  static constexpr cuda::precision number_precision = P;
  static constexpr stem_shape shape = S;
  static constexpr int dim = S.dim, length = S.tokens() + 1;
  static constexpr float mean[4] = {0.485f, 0.456f, 0.406f, 0.5f}, deviation[4] = {0.229f, 0.224f, 0.225f, 0.25f};

  stem_case<S> host;
  std::vector<std::uint8_t> bytes;  ///< [B, H, W, C]
  cuda::context<P> ctx;
  device_array<float> conv1, conv2, conv3, proj, proj_bias, planar, cls, pos, grid, x;
  std::array<device_array<float>, 3> weight, bias, mean_of, var;
  device_array<std::uint8_t> packed;
  cuda::device_memory memory;
  arena place;
  cuda::stem_weights<S, T> weights;

  explicit device_stem(int pictures)
      : host{pictures},
        memory{planned_bytes<cuda::stem_weights<S, T>>()},
        place{memory.data(), memory.size()},
        weights{place} {
    for (auto* v : host.p.all()) *v = rounded<float>(*v);
    for (std::size_t i = 0; i < 3; ++i)
      host.mean[i] = rounded<float>(host.mean[i]), host.var[i] = rounded<float>(host.var[i]);
    for (double v : host.random.uniform(host.picture.size(), 0, 256)) bytes.push_back(std::uint8_t(v));
    packed = device_array<std::uint8_t>{bytes};
    auto const reader = pictures_in_bytes();
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::size_t const c = i % S.channels, pixel = i / S.channels, area = std::size_t(S.height) * S.width;
      host.picture[(pixel / area * S.channels + c) * area + pixel % area] =
          double(std::fma(float(bytes[i]), reader.scale[c], reader.shift[c]));
    }
    host.picture = rounded<T>(host.picture);
    cls = device_array<float>{host.random.normal(S.dim)}, pos = device_array<float>{host.random.normal(length * S.dim)};
    grid = device_array<float>(host.grid.size());
    x = device_array<float>(std::size_t(pictures) * length * S.dim);
  }

  [[nodiscard]] cuda::byte_pictures<S.channels> pictures_in_bytes() const {
    float m[S.channels], d[S.channels];
    for (int c = 0; c < S.channels; ++c) m[c] = mean[c], d[c] = deviation[c];
    return cuda::byte_pictures<S.channels>::normalised(packed.data(), m, d);
  }

  /// Copies the parameters to the device and prepares the weights there, over poison.
  void prepare() {
    auto const& p = host.p;
    conv1 = device_array<float>{p.conv1}, conv2 = device_array<float>{p.conv[0]},
    conv3 = device_array<float>{p.conv[1]};
    proj = device_array<float>{p.proj}, proj_bias = device_array<float>{p.proj_bias};
    planar = device_array<float>{host.picture};
    for (std::size_t i = 0; i < 3; ++i) {
      weight[i] = device_array<float>{p.weight[i]}, bias[i] = device_array<float>{p.bias[i]};
      mean_of[i] = device_array<float>{host.mean[i]}, var[i] = device_array<float>{host.var[i]};
    }
    cuda::check(cudaMemset(memory.data(), 0xff, memory.size()), "poison");
    constexpr int h = S.hidden, side = S.patch / 2;
    auto const each = [](std::array<device_array<float>, 3> const& a) {
      using channels = block<float const, space::device, h>;
      return std::array<channels, 3>{channels{a[0].data()}, channels{a[1].data()}, channels{a[2].data()}};
    };
    stem_parameters<S, float const, space::device> q;
    q.conv1 = conv1.template as_block<h, S.channels, 7, 7>();
    q.conv[0] = conv2.template as_block<h, h, 3, 3>(), q.conv[1] = conv3.template as_block<h, h, 3, 3>();
    q.bn_weight = each(weight), q.bn_bias = each(bias);
    q.proj = proj.template as_block<S.dim, h, side, side>(), q.proj_bias = proj_bias.template as_block<S.dim>();
    cuda::prepare_stem(ctx, q, stem_statistics<S, float const, space::device>{each(mean_of), each(var)}, weights);
  }

  /// All bytes of the scratch to NaN: an operation must not read what it has not written.
  void poison_scratch() {
    arena_scope const scope{ctx.shared()};
    if (ctx.scratch_bytes() != 0)
      cuda::check(cudaMemset(ctx.shared().template take<std::byte>(ctx.scratch_bytes()), 0xff, ctx.scratch_bytes()),
                  "poison");
  }

  /// The grid from pictures in either form.
  std::vector<double> forward(auto const& picture) {
    grid = device_array<float>(host.grid.size());
    cuda::stem_forward(ctx, picture, weights, grid.template as_rows<dim>());
    return grid.read();
  }
  /// The grid on a device with less shared memory.
  std::vector<double> forward_with(int shared_per_block) {
    grid = device_array<float>(host.grid.size());
    auto device = ctx.device();
    device.shared_per_block = shared_per_block;
    using namespace cuda::detail;
    stem::run<S>(ctx, device, reader_of<stem::geometry<S>>(static_cast<float const*>(planar.data())), weights,
                 stem::grid_sink<dim>{weights.proj_bias, grid.data()}, host.batch);
    return grid.read();
  }
  /// Token rows.
  std::vector<double> tokens(auto const& picture) {
    x = device_array<float>(x.size());
    cuda::stem_tokens(ctx, picture, weights, cls.template as_block<1, 1, dim>(),
                      pos.template as_block<1, length, dim>(), x.template as_rows<dim>());
    return x.read();
  }
};

}  // namespace dm2::test
