/// @file
/// Pictures for the stem with parameters and gradients, and the stem as loops over its formulas.
#pragma once

#include <dm2/cpu/stem_train.hpp>

#include "cpu/naive.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::test {

/// The parameters' numbers, or their gradients'.
struct stem_numbers {
  std::vector<double> conv1;
  std::array<std::vector<double>, 2> conv;
  std::array<std::vector<double>, 3> weight, bias;
  std::vector<double> proj, proj_bias;

  [[nodiscard]] std::vector<std::vector<double>*> all() {
    return {&conv1,   &conv[0], &conv[1], &weight[0], &weight[1], &weight[2],
            &bias[0], &bias[1], &bias[2], &proj,      &proj_bias};
  }
};

template <stem_shape S, class V>
auto stem_view(V& p) {
  using T = std::remove_reference_t<decltype(*p.conv1.data())>;
  constexpr int h = S.hidden, side = S.patch / 2;
  return stem_parameters<S, T>{as_block<h, S.channels, 7, 7>(p.conv1),
                               {as_block<h, h, 3, 3>(p.conv[0]), as_block<h, h, 3, 3>(p.conv[1])},
                               {as_block<h>(p.weight[0]), as_block<h>(p.weight[1]), as_block<h>(p.weight[2])},
                               {as_block<h>(p.bias[0]), as_block<h>(p.bias[1]), as_block<h>(p.bias[2])},
                               as_block<S.dim, h, side, side>(p.proj),
                               as_block<S.dim>(p.proj_bias)};
}

template <stem_shape S>
struct stem_case {
  static constexpr stem_shape shape = S;
  static constexpr int dim = S.dim;
  static constexpr std::size_t pixels = std::size_t(S.channels) * S.height * S.width;
  int batch;
  cpu::context<double> ctx;
  random_source random{137};
  stem_numbers p, grad;
  std::array<std::vector<double>, 3> mean, var;
  std::vector<double> picture, dgrid, grid, dpicture;
  host_memory memory;
  arena place;
  stem_saved<S, double> saved;

  explicit stem_case(int pictures, int threads = 1)
      : batch{pictures},
        ctx{threads},
        picture{random.normal(std::size_t(batch) * pixels)},
        dgrid{random.normal(std::size_t(batch) * S.tokens() * S.dim)},
        grid{poisoned(dgrid.size())},
        dpicture{poisoned(picture.size())},
        memory{planned_bytes<stem_saved<S, double>>(batch)},
        place{memory.data(), memory.size()},
        saved{place, batch} {
    constexpr std::size_t h = S.hidden, side = S.patch / 2;
    p = {random.normal(h * S.channels * 49, 0.2),
         {random.normal(h * h * 9, 0.3), random.normal(h * h * 9, 0.3)},
         {},
         {},
         random.normal(S.dim * h * side * side),
         random.normal(S.dim)};
    for (std::size_t i = 0; i < 3; ++i) {
      p.weight[i] = random.normal(h, 0.3, 1), p.bias[i] = random.normal(h);
      mean[i] = random.normal(h), var[i] = random.uniform(h, 0.5, 2);
    }
    grad = p;
    for (auto* v : grad.all()) v->assign(v->size(), 0);
  }

  template <class T>
  static stem_statistics<S, T> statistics(auto& m, auto& v) {
    constexpr int h = S.hidden;
    return {{as_block<h>(m[0]), as_block<h>(m[1]), as_block<h>(m[2])},
            {as_block<h>(v[0]), as_block<h>(v[1]), as_block<h>(v[2])}};
  }
  void evaluate() {
    cpu::stem_forward<S>(ctx, std::as_const(picture).data(), stem_view<S>(std::as_const(p)),
                         statistics<double const>(std::as_const(mean), std::as_const(var)), as_rows<dim>(grid));
  }
  void forward() {
    cpu::stem_forward_train<S>(ctx, std::as_const(picture).data(), stem_view<S>(std::as_const(p)),
                               statistics<double>(mean, var), as_rows<dim>(grid), saved);
  }
  void backward() {
    cpu::stem_backward<S>(ctx, std::as_const(picture).data(), stem_view<S>(std::as_const(p)), saved,
                          as_rows<dim>(std::as_const(dgrid)), stem_view<S>(grad), dpicture.data());
  }
};

/// x [C, H, W] of one picture with w [Co, C, K, K], zeros around it; [Co, H / stride, W / stride].
inline naive::numbers naive_conv2d(naive::numbers const& x, naive::numbers const& w, int channels, int height,
                                   int width, int kernel, int stride, int pad) {
  int const out = int(w.size()) / (channels * kernel * kernel);
  naive::numbers y;
  for (int o = 0; o < out; ++o)
    for (int r = 0; r < height / stride; ++r)
      for (int c = 0; c < width / stride; ++c) {
        double sum = 0;
        for (int i = 0; i < channels; ++i)
          for (int ky = 0; ky < kernel; ++ky)
            for (int kx = 0; kx < kernel; ++kx) {
              int const row = r * stride + ky - pad, col = c * stride + kx - pad;
              if (row < 0 || row >= height || col < 0 || col >= width) continue;
              sum += x[std::size_t((i * height + row) * width + col)] *
                     w[std::size_t(((o * channels + i) * kernel + ky) * kernel + kx)];
            }
        y.push_back(sum);
      }
  return y;
}

/// BatchNorm and ReLU over planar pictures. In training with the statistics of the batch, which move the running ones.
inline void naive_batch_norm(std::vector<naive::numbers>& x, naive::numbers const& weight, naive::numbers const& bias,
                             naive::numbers& mean, naive::numbers& var, bool training) {
  std::size_t const channels = weight.size(), area = x[0].size() / channels;
  double const n = double(x.size() * area);
  for (std::size_t c = 0; c < channels; ++c) {
    double m = 0, square = 0;
    for (auto const& one : x)
      for (std::size_t i = 0; i < area; ++i) m += one[c * area + i] / n;
    for (auto const& one : x)
      for (std::size_t i = 0; i < area; ++i) square += (one[c * area + i] - m) * (one[c * area + i] - m);
    double const centre = training ? m : mean[c], spread = training ? square / n : var[c];
    for (auto& one : x)
      for (std::size_t i = 0; i < area; ++i) {
        double& v = one[c * area + i];
        v = std::max(0.0, (v - centre) / std::sqrt(spread + 1e-5) * weight[c] + bias[c]);
      }
    if (!training) continue;
    mean[c] = 0.9 * mean[c] + 0.1 * m;
    var[c] = 0.9 * var[c] + 0.1 * square / std::max(1.0, n - 1);
  }
}

/// The grid [B tokens, dim]; training moves mean and var.
template <stem_shape S>
naive::numbers naive_stem(stem_case<S> const& f, std::array<naive::numbers, 3>& mean,
                          std::array<naive::numbers, 3>& var, bool training) {
  std::vector<naive::numbers> x;
  for (int b = 0; b < f.batch; ++b) {
    auto const first = f.picture.begin() + b * std::ptrdiff_t(f.pixels);
    x.push_back(
        naive_conv2d({first, first + std::ptrdiff_t(f.pixels)}, f.p.conv1, S.channels, S.height, S.width, 7, 2, 3));
  }
  naive_batch_norm(x, f.p.weight[0], f.p.bias[0], mean[0], var[0], training);
  for (std::size_t i = 0; i < 2; ++i) {
    for (auto& one : x) one = naive_conv2d(one, f.p.conv[i], S.hidden, S.half_height(), S.half_width(), 3, 1, 1);
    naive_batch_norm(x, f.p.weight[i + 1], f.p.bias[i + 1], mean[i + 1], var[i + 1], training);
  }
  naive::numbers grid;
  for (auto const& one : x) {
    auto const planar =
        naive_conv2d(one, f.p.proj, S.hidden, S.half_height(), S.half_width(), S.patch / 2, S.patch / 2, 0);
    for (int t = 0; t < S.tokens(); ++t)
      for (int d = 0; d < S.dim; ++d)
        grid.push_back(planar[std::size_t(d * S.tokens() + t)] + f.p.proj_bias[std::size_t(d)]);
  }
  return grid;
}

/// One patch and one pixel after the first convolution; odd grids; more than one band of rows.
inline constexpr stem_shape one_pixel{.height = 2, .width = 2, .channels = 1, .hidden = 3, .patch = 2, .dim = 5};
inline constexpr stem_shape odd_grid{.height = 12, .width = 20, .channels = 3, .hidden = 5, .patch = 4, .dim = 7};
inline constexpr stem_shape one_column{.height = 24, .width = 8, .channels = 1, .hidden = 3, .patch = 8, .dim = 2};
inline constexpr stem_shape two_bands{.height = 48, .width = 80, .channels = 3, .hidden = 2, .patch = 16, .dim = 3};

}  // namespace dm2::test
