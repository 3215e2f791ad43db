#include <dm2/cpu/conv2d.hpp>

#include <doctest/doctest.h>

#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cpu::detail::plane;

namespace {

/// One convolution of a picture [H, W, Ci] with w [Co, Ci, K, K].
struct conv_case {
  plane p;
  int out;
  cpu::context<double> ctx;
  random_source random{127};
  std::vector<double> x, w, dy, y, dx, dw;

  conv_case(plane of, int out_channels, int threads = 1)
      : p{of},
        out{out_channels},
        ctx{threads},
        x{random.normal(pixels() * std::size_t(p.channels))},
        w{random.normal(std::size_t(out * p.channels * p.kernel * p.kernel))},
        dy{random.normal(pixels() * std::size_t(out))},
        y{poisoned(dy.size())},
        dx{poisoned(x.size())},
        dw(w.size()) {}

  [[nodiscard]] std::size_t pixels() const { return std::size_t(p.height * p.width); }
  [[nodiscard]] plane gradient_plane() const { return {p.height, p.width, out, p.kernel, p.kernel - 1 - p.before}; }

  /// A picture in its plane, with NaN wherever clear_border has not been.
  static std::vector<double> padded(plane of, std::vector<double> const& picture) {
    auto data = poisoned(of.size());
    cpu::detail::clear_border(of, data.data());
    for (int r = 0; r < of.height; ++r)
      std::copy_n(picture.data() + r * of.width * of.channels, of.width * of.channels, data.data() + of.at(r, 0));
    return data;
  }
  [[nodiscard]] std::vector<double> arranged() const {
    auto a = poisoned(w.size());
    cpu::detail::for_each_tap(out, p.channels, p.kernel,
                              [&](int from, int to) { a[std::size_t(to)] = w[std::size_t(from)]; });
    return a;
  }
  void convolve(plane of, std::vector<double> const& in, std::vector<double> const& taps, int channels,
                std::vector<double>& to) {
    auto const emit = [&](int r, double const* row) {
      std::copy_n(row, of.width * channels, to.data() + r * of.width * channels);
    };
    if (ctx.reserve(0, cpu::detail::conv_band_scratch(of, channels) * sizeof(double) + arena::alignment))
      cpu::detail::conv2d(ctx, of, in.data(), taps.data(), channels, emit);
  }
  void forward() { convolve(p, padded(p, x), arranged(), out, y); }
  void backward() {
    plane const q = gradient_plane();
    auto const grad = padded(q, dy), taps = arranged();
    auto mirrored = poisoned(w.size());
    cpu::detail::mirror_kernel(taps.data(), out, p.channels, p.kernel, mirrored.data());
    convolve(q, grad, mirrored, p.channels, dx);
    std::vector<double> sums(w.size());
    cpu::detail::conv2d_weight_gradient(p, padded(p, x).data(), q, grad.data(), sums.data());
    cpu::detail::for_each_tap(out, p.channels, p.kernel,
                              [&](int to, int from) { dw[std::size_t(to)] += sums[std::size_t(from)]; });
  }
  [[nodiscard]] std::vector<double> naive() const {
    std::vector<double> want;
    for (int r = 0; r < p.height; ++r)
      for (int c = 0; c < p.width; ++c)
        for (int o = 0; o < out; ++o) {
          double sum = 0;
          for (int ky = 0; ky < p.kernel; ++ky)
            for (int kx = 0; kx < p.kernel; ++kx) {
              int const row = r + ky - p.before, col = c + kx - p.before;
              if (row < 0 || row >= p.height || col < 0 || col >= p.width) continue;
              for (int i = 0; i < p.channels; ++i)
                sum += x[std::size_t((row * p.width + col) * p.channels + i)] *
                       w[std::size_t(((o * p.channels + i) * p.kernel + ky) * p.kernel + kx)];
            }
          want.push_back(sum);
        }
    return want;
  }
};

/// From one pixel to pictures of more than one band.
std::vector<plane> planes() {
  std::vector<plane> all;
  for (auto const& [kernel, before] : {std::pair{1, 0}, {3, 1}, {4, 2}})
    for (auto const& [height, width] : {std::pair{1, 1}, {1, 5}, {5, 1}, {2, 2}, {7, 3}, {31, 47}})
      all.push_back({height, width, 3, kernel, before});
  return all;
}

}  // namespace

TEST_CASE("conv2d: equals the sum over taps, on one thread and on two") {
  for (plane const p : planes())
    for (int const threads : {1, 2}) {
      CAPTURE(p.height);
      CAPTURE(p.kernel);
      conv_case f{p, 5, threads};
      f.forward();
      CHECK(relative_error(f.y, f.naive()) < 1e-14);
    }
}

TEST_CASE("conv2d: on the calling thread gives the same bits") {
  conv_case f{{31, 47, 3, 4, 2}, 5, 2};
  f.forward();
  host_memory const memory{cpu::detail::conv_band_scratch(f.p, 5) * sizeof(double) + arena::alignment};
  arena scratch{memory.data(), memory.size()};
  auto y = poisoned(f.y.size());
  auto const in = conv_case::padded(f.p, f.x);
  cpu::detail::conv2d(f.p, in.data(), f.arranged().data(), 5, scratch,
                      [&](int r, double const* row) { std::copy_n(row, 47 * 5, y.data() + r * 47 * 5); });
  CHECK(y == f.y);
  CHECK(scratch.used() == 0);
}

TEST_CASE("conv2d: gradients of picture and kernel match central differences") {
  for (plane const p : planes()) {
    CAPTURE(p.height);
    CAPTURE(p.kernel);
    conv_case f{p, 5};
    auto const loss = [&] {
      f.forward();
      return dot(f.y, f.dy);
    };
    f.backward();
    CHECK(gradient_error(f.x, f.dx, loss, 32) < gradient_tolerance);
    CHECK(gradient_error(f.w, f.dw, loss, 32) < gradient_tolerance);
  }
}

TEST_CASE("conv2d: clearing the border leaves the picture") {
  plane const p{3, 2, 2, 4, 2};
  auto data = poisoned(p.size());
  cpu::detail::clear_border(p, data.data());
  for (int y = -2; y < 4; ++y)
    for (int x = -2; x < 3; ++x)
      for (int c = 0; c < 2; ++c) {
        bool const inside = y >= 0 && y < 3 && x >= 0 && x < 2;
        double const v = data[std::size_t(p.at(y, x) + c)];
        CHECK((inside ? std::isnan(v) : v == 0));
      }
}
