#include <dm2/cpu/batch_norm.hpp>

#include <doctest/doctest.h>

#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace detail = dm2::cpu::detail;

namespace {

constexpr int channels = 3;

struct batch_case {
  std::ptrdiff_t pixels;
  cpu::context<double> ctx;
  random_source random{131};
  std::vector<double> x, weight, bias, dy, y, mean, rstd, running_mean, running_var, dx, dweight, dbias, scratch;
  host_memory memory{1024};
  arena place{memory.data(), memory.size()};
  dm2::cpu::detail::channel_affine<double> affine{place, channels};

  explicit batch_case(std::ptrdiff_t n, int threads = 1)
      : pixels{n},
        ctx{threads},
        x{random.normal(size(), 2, 5)},
        weight{random.normal(channels)},
        bias{random.normal(channels)},
        dy{random.normal(size())},
        y{poisoned(size())},
        mean{poisoned(channels)},
        rstd{mean},
        running_mean{random.normal(channels)},
        running_var{random.uniform(channels, 1, 2)},
        dx{y},
        dweight(channels),
        dbias(channels),
        scratch(std::size_t(dm2::cpu::detail::gradient_parts + 1) * 2 * channels, 7.0) {}

  [[nodiscard]] std::size_t size() const { return std::size_t(pixels) * channels; }
  void statistics() {
    dm2::cpu::detail::batch_statistics(ctx, x.data(), pixels, channels, scratch.data(), mean.data(), rstd.data(),
                                       running_mean.data(), running_var.data());
    affine.fill(channels, weight.data(), bias.data(), mean.data(), rstd.data());
  }
  void forward() {
    statistics();
    dm2::cpu::detail::affine_relu(x.data(), pixels, channels, affine, y.data());
  }
  [[nodiscard]] double* means() { return scratch.data() + dm2::cpu::detail::gradient_parts * 2 * channels; }
  [[nodiscard]] dm2::cpu::detail::batch_norm_point<double> point() const {
    return {x.data(), channels, affine, mean.data(), rstd.data()};
  }
  void backward() {
    dm2::cpu::detail::batch_norm_sums(ctx, point(), dy.data(), pixels, scratch.data(), means(), dweight.data(),
                                      dbias.data());
    dm2::cpu::detail::batch_norm_input_gradient(point(), dy.data(), pixels, means(), dx.data());
  }
  [[nodiscard]] double at(std::ptrdiff_t i, int c) const { return x[std::size_t(i * channels + c)]; }
};

}  // namespace

TEST_CASE("batch_norm: mean, deviation and the moving statistics are the batch's, the moving variance unbiased") {
  for (std::ptrdiff_t const pixels : {1, 2, 7, 17, 200}) {
    CAPTURE(pixels);
    batch_case f{pixels, 2};
    auto const mean_before = f.running_mean, var_before = f.running_var;
    f.statistics();
    for (int c = 0; c < channels; ++c) {
      std::size_t const k = std::size_t(c);
      double mean = 0, square = 0;
      for (std::ptrdiff_t i = 0; i < pixels; ++i) mean += f.at(i, c) / double(pixels);
      for (std::ptrdiff_t i = 0; i < pixels; ++i) square += (f.at(i, c) - mean) * (f.at(i, c) - mean);
      CHECK(f.mean[k] == doctest::Approx(mean).epsilon(1e-13));
      CHECK(f.rstd[k] == doctest::Approx(1 / std::sqrt(square / double(pixels) + 1e-5)).epsilon(1e-12));
      CHECK(f.running_mean[k] == doctest::Approx(0.9 * mean_before[k] + 0.1 * mean).epsilon(1e-13));
      double const unbiased = pixels == 1 ? 0 : square / double(pixels - 1);
      CHECK(f.running_var[k] == doctest::Approx(0.9 * var_before[k] + 0.1 * unbiased).epsilon(1e-13));
    }
  }
}

TEST_CASE("batch_norm: the variance of float numbers far from zero keeps its digits") {
  cpu::context<float> ctx;
  std::vector<float> x;
  for (int i = 0; i < 1000; ++i) x.push_back(4096.0f + float(i % 2));
  std::vector<double> parts(std::size_t(dm2::cpu::detail::gradient_parts + 2));
  float mean, rstd, running_mean = 0, running_var = 0;
  dm2::cpu::detail::batch_statistics(ctx, x.data(), 1000, 1, parts.data(), &mean, &rstd, &running_mean, &running_var);
  CHECK(mean == 4096.5f);
  CHECK(double(rstd) == doctest::Approx(1 / std::sqrt(0.25 + 1e-5)).epsilon(1e-6));
}

TEST_CASE("batch_norm: the output is relu of the normalised input, in place too") {
  batch_case f{17};
  f.forward();
  for (std::ptrdiff_t i = 0; i < 17; ++i)
    for (std::size_t c = 0; c < channels; ++c) {
      double const z = (f.at(i, int(c)) - f.mean[c]) * f.rstd[c] * f.weight[c] + f.bias[c];
      CHECK(std::abs(f.y[std::size_t(i) * channels + c] - std::max(z, 0.0)) < 1e-13);
    }
  dm2::cpu::detail::affine_relu(f.x.data(), 17, channels, f.affine, f.x.data());
  CHECK(f.x == f.y);
}

TEST_CASE("batch_norm: gradients match central differences") {
  for (std::ptrdiff_t const pixels : {7, 17, 197}) {
    CAPTURE(pixels);
    batch_case f{pixels, 2};
    auto const loss = [&] {
      f.forward();
      return dot(f.y, f.dy);
    };
    f.forward();
    f.backward();
    CHECK(gradient_error(f.x, f.dx, loss, 64, 2e-6) < gradient_tolerance);
    CHECK(gradient_error(f.weight, f.dweight, loss, 64, 2e-6) < gradient_tolerance);
    CHECK(gradient_error(f.bias, f.dbias, loss, 64, 2e-6) < gradient_tolerance);
  }
}

TEST_CASE("batch_norm: parameter gradients accumulate, and the input's may replace the output's") {
  batch_case f{17}, g{17};
  f.forward();
  f.backward();
  g.forward();
  g.backward();
  g.backward();
  CHECK(g.dx == f.dx);
  for (std::size_t c = 0; c < channels; ++c) {
    CHECK(g.dweight[c] == 2 * f.dweight[c]);
    CHECK(g.dbias[c] == 2 * f.dbias[c]);
  }
  dm2::cpu::detail::batch_norm_input_gradient(f.point(), f.dy.data(), 17, f.means(), f.dy.data());
  CHECK(f.dy == f.dx);
}

TEST_CASE("batch_norm: one thread and two give the same bits") {
  batch_case one{197, 1}, two{197, 2};
  for (batch_case* f : {&one, &two}) f->forward(), f->backward();
  CHECK(one.mean == two.mean);
  CHECK(one.rstd == two.rstd);
  CHECK(one.dweight == two.dweight);
  CHECK(one.dx == two.dx);
}
