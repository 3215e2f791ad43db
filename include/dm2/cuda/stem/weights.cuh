/// @file
/// The stem's weights for inference.
///
/// BatchNorm folded in, in the order in which the kernels read them.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/stem/layout.cuh>

#include <array>
#include <cstddef>

namespace dm2::cuda {

/// Weights of a stem of shape S in elements of T; biases float. Memory of the arena that it was made from,
/// uninitialised until prepare_stem.
template <stem_shape S, class T>
struct stem_weights {
  /// Where each weight lies.
  using layouts = detail::stem::layouts<S, T>;

  std::array<T*, 3> conv;      ///< the convolutions, BatchNorm's scale multiplied in
  T* proj;                     ///< the projection
  std::array<float*, 3> bias;  ///< [hidden] each, what BatchNorm adds
  float* proj_bias;            ///< [dim]

  /// Takes its memory from a.
  explicit stem_weights(arena& a)
      : conv{a.take<T>(layouts::conv1::size), a.take<T>(layouts::conv3::size), a.take<T>(layouts::conv3::size)},
        proj{a.take<T>(layouts::project::size)},
        bias{a.take<float>(S.hidden), a.take<float>(S.hidden), a.take<float>(S.hidden)},
        proj_bias{a.take<float>(S.dim)} {}
};

namespace detail::stem {

/// BatchNorm with running statistics, or, where weight is null, only a bias.
struct fold_norm {
  float const *weight, *bias, *mean, *var;
};

/// to[Layout(tap, c, n)] = w [N, Inner, Taps] * scale[n] and to_bias[n] = shift[n], of norm(x) = x scale + shift.
template <class Layout, int Taps, int Inner, int N, class T>
__global__ void __launch_bounds__(256)
    fold_kernel(float const* __restrict__ w, fold_norm norm, T* __restrict__ to, float* __restrict__ to_bias) {
  constexpr float eps = 1e-5f;  // BatchNorm's
  int const i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= N * Inner * Taps) return;
  int const tap = i % Taps, channel = i / Taps % Inner, n = i / (Taps * Inner);
  float const scale = norm.weight == nullptr ? 1.f : norm.weight[n] / sqrtf(norm.var[n] + eps);
  to[Layout::index(tap, channel, n)] = from_float<T>(w[i] * scale);
  if (tap == 0 && channel == 0)
    to_bias[n] = norm.weight == nullptr ? norm.bias[n] : norm.bias[n] - norm.mean[n] * scale;
}

template <class Layout, int Taps, int Inner, int N, class T>
void fold(cudaStream_t stream, float const* w, fold_norm const& norm, T* to, float* to_bias) {
  launch("prepare_stem", fold_kernel<Layout, Taps, Inner, N, T>, {unsigned((N * Inner * Taps - 1) / 256 + 1), 256},
         stream, w, norm, to, to_bias);
}

}  // namespace detail::stem

/// Folds the running statistics into the convolutions, in float, rounds to the context's elements, and arranges.
///
/// Shapes   of the operands' types, all on the device.
/// Writes   weights (=), asynchronously.
template <stem_shape S, precision P>
void prepare_stem(context<P>& ctx, stem_parameters<S, float const, space::device> const& p,
                  stem_statistics<S, float const, space::device> const& running,
                  stem_weights<S, element<P>> const& weights) {
  using G = detail::stem::geometry<S>;
  using layouts = detail::stem::layouts<S, element<P>>;
  auto const norm = [&](std::size_t i) {
    return detail::stem::fold_norm{p.bn_weight[i].data, p.bn_bias[i].data, running.mean[i].data, running.var[i].data};
  };
  if (!ctx.reserve(0)) return;
  // The first layout has weights that stand for no tap: zeros.
  check(cudaMemsetAsync(weights.conv[0], 0, layouts::conv1::size * sizeof(element<P>), ctx.stream()), "prepare_stem");
  detail::stem::fold<typename layouts::conv1, 49, S.channels, S.hidden>(ctx.stream(), p.conv1.data, norm(0),
                                                                        weights.conv[0], weights.bias[0]);
  for (std::size_t i = 0; i < 2; ++i)
    detail::stem::fold<typename layouts::conv3, 9, S.hidden, S.hidden>(ctx.stream(), p.conv[i].data, norm(i + 1),
                                                                       weights.conv[i + 1], weights.bias[i + 1]);
  detail::stem::fold<typename layouts::project, G::side * G::side, S.hidden, S.dim>(
      ctx.stream(), p.proj.data, {nullptr, p.proj_bias.data, nullptr, nullptr}, weights.proj, weights.proj_bias);
}

}  // namespace dm2::cuda
