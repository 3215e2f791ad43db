/// @file
/// The stem's training on the device beside its oracle in double.
#pragma once

#include <dm2/cuda/stem_train.cuh>

#include "cpu/stem_case.hpp"
#include "cuda/support/device_array.cuh"

#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace dm2::test {

/// A stem's parameters on the device, or their gradients.
template <stem_shape S>
struct stem_arrays {
  device_array<float> conv1, proj, proj_bias;
  std::array<device_array<float>, 2> conv;
  std::array<device_array<float>, 3> weight, bias;

  stem_arrays() = default;
  explicit stem_arrays(stem_numbers const& p)
      : conv1{p.conv1},
        proj{p.proj},
        proj_bias{p.proj_bias},
        conv{device_array<float>{p.conv[0]}, device_array<float>{p.conv[1]}} {
    for (std::size_t i = 0; i < 3; ++i)
      weight[i] = device_array<float>{p.weight[i]}, bias[i] = device_array<float>{p.bias[i]};
  }
  template <class T>
  [[nodiscard]] stem_parameters<S, T, space::device> view() const {
    constexpr int h = S.hidden, side = S.patch / 2;
    stem_parameters<S, T, space::device> q;
    q.conv1 = conv1.template as_block<h, S.channels, 7, 7>();
    for (std::size_t i = 0; i < 2; ++i) q.conv[i] = conv[i].template as_block<h, h, 3, 3>();
    for (std::size_t i = 0; i < 3; ++i)
      q.bn_weight[i] = weight[i].template as_block<h>(), q.bn_bias[i] = bias[i].template as_block<h>();
    q.proj = proj.template as_block<S.dim, h, side, side>();
    q.proj_bias = proj_bias.template as_block<S.dim>();
    return q;
  }
  /// All of them, in the order of stem_numbers::all().
  [[nodiscard]] std::vector<std::vector<double>> read() const {
    std::vector<std::vector<double>> all;
    for (auto const* a : {&conv1, &conv[0], &conv[1], &weight[0], &weight[1], &weight[2], &bias[0], &bias[1], &bias[2],
                          &proj, &proj_bias}) {
      CHECK(a->margins_untouched());
      all.push_back(a->read());
    }
    return all;
  }
};

/// In what the forward rounds: bfloat16's is half's.
template <cuda::precision P>
inline constexpr cuda::precision stem_precision = P == cuda::precision::bf16 ? cuda::precision::fp16 : P;

/// The CPU's case with numbers that the device holds too, and those on the device.
template <stem_shape S, cuda::precision P>
struct train_stem {
  using T = cuda::element<P>;
  static constexpr stem_shape shape = S;
  static constexpr cuda::precision precision = P;
  static constexpr int dim = S.dim;

  stem_case<S> host;
  cuda::context<P> ctx;
  stem_arrays<S> parameters, gradients;
  device_array<float> picture, dpicture;
  device_array<T> grid, dgrid;
  std::array<device_array<float>, 3> mean, var;
  cuda::device_memory memory;
  arena place;
  cuda::stem_saved<S, T> saved;

  explicit train_stem(int pictures)
      : host{pictures, 2},
        memory{planned_bytes<cuda::stem_saved<S, T>>(pictures)},
        place{memory.data(), memory.size()},
        saved{place, pictures} {
    for (auto* v : {&host.p.conv1, &host.p.conv[0], &host.p.conv[1], &host.p.proj, &host.picture, &host.dgrid})
      *v = rounded<T>(*v);
    for (auto* v : host.p.all()) *v = rounded<float>(*v);
    for (std::size_t i = 0; i < 3; ++i) {
      host.mean[i] = rounded<float>(host.mean[i]), host.var[i] = rounded<float>(host.var[i]);
      mean[i] = device_array<float>{host.mean[i]}, var[i] = device_array<float>{host.var[i]};
    }
    for (auto* v : host.grad.all()) *v = rounded<float>(host.random.normal(v->size()));
    cuda::check(cudaMemset(memory.data(), 0xff, memory.size()), "poison");
    parameters = stem_arrays<S>{host.p};
    gradients = stem_arrays<S>{host.grad};
    picture = device_array<float>{host.picture};
    dgrid = device_array<T>{host.dgrid};
    grid = device_array<T>(host.grid.size());
    dpicture = device_array<float>(host.picture.size());
  }

  /// All bytes of the scratch to NaN: an operation must not read what it has not written.
  void poison_scratch() {
    arena_scope const scope{ctx.shared()};
    if (std::size_t const n = ctx.shared().capacity(); n != 0)
      cuda::check(cudaMemset(ctx.shared().template take<std::byte>(n), 0xff, n), "poison");
  }
  [[nodiscard]] stem_statistics<S, float, space::device> running() const {
    stem_statistics<S, float, space::device> r;
    for (std::size_t i = 0; i < 3; ++i)
      r.mean[i] = mean[i].template as_block<S.hidden>(), r.var[i] = var[i].template as_block<S.hidden>();
    return r;
  }
  void forward(auto const& pictures) {
    cuda::stem_forward_train(ctx, pictures, parameters.template view<float const>(), running(),
                             grid.template as_rows<dim>(), saved);
  }
  void forward() { forward(static_cast<float const*>(picture.data())); }
  void backward(float* to) {
    cuda::stem_backward(ctx, static_cast<float const*>(picture.data()), parameters.template view<float const>(), saved,
                        rows<T const, dim, space::device>{dgrid.template as_rows<dim>()},
                        gradients.template view<float>(), to);
  }

  /// Raw output `stage` as the oracle keeps it: [B, H / 2, W / 2, hidden].
  [[nodiscard]] std::vector<double> raw(std::size_t stage) const {
    constexpr std::size_t plane = cuda::stem_saved<S, T>::plane;
    using number = cuda::stem_number<T>;
    std::vector<number> there(std::size_t(host.batch) * plane);
    cuda::check(cudaDeviceSynchronize(), "the work before");
    cuda::check(cudaMemcpy(there.data(), saved.raw[stage], there.size() * sizeof(number), cudaMemcpyDeviceToHost),
                "raw");
    std::vector<double> out(there.size());
    constexpr int side = S.patch / 2, width = S.half_width(), height = S.half_height(), h = S.hidden;
    for (int b = 0; b < host.batch; ++b)
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
          int const token = y / side * S.grid_width() + x / side, inside = y % side * side + x % side;
          int const at = stage == 2 ? token * side * side + inside : y * width + x;
          for (int c = 0; c < h; ++c)
            out[(std::size_t(b) * height * width + std::size_t(y * width + x)) * h + std::size_t(c)] =
                double(cuda::detail::to_float(
                    there[(std::size_t(b) * height * width + std::size_t(at)) * h + std::size_t(c)]));
        }
    return out;
  }
  /// Gives the oracle what the device's forward saved: its backward then starts from the same numbers.
  void adopt_saved() {
    for (std::size_t i = 0; i < 3; ++i) {
      auto const numbers = raw(i);
      std::copy(numbers.begin(), numbers.end(), host.saved.raw[i]);
      for (auto const& [from, to] :
           {std::pair{saved.mean[i], host.saved.mean[i]}, {saved.rstd[i], host.saved.rstd[i]}}) {
        std::vector<float> values(S.hidden);
        cuda::check(cudaMemcpy(values.data(), from, S.hidden * sizeof(float), cudaMemcpyDeviceToHost), "statistics");
        std::copy(values.begin(), values.end(), to);
      }
    }
  }
};

}  // namespace dm2::test
