#include <dm2/cpu/rms_norm.hpp>

#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr double eps = 1e-3;  // large enough that leaving it out shows

template <int C>
struct norm_case {
  static constexpr int width = C;
  std::size_t count;
  cpu::context<double> ctx;
  random_source random{11};
  std::vector<double> x, w, dy, y, rstd, dx, dw;

  explicit norm_case(std::size_t rows_in, int threads = 1)
      : count{rows_in},
        ctx{threads},
        x{random.normal(count * C, 0.1)},
        w{random.normal(C)},
        dy{random.normal(count * C)},
        y{poisoned(count * C)},
        rstd{poisoned(count)},
        dx(count * C),
        dw(C) {}

  void forward() { cpu::rms_norm(ctx, as_rows<C>(x), as_block<C>(std::as_const(w)), eps, as_rows<C>(y), rstd.data()); }
  void backward() {
    cpu::rms_norm_backward(ctx, as_rows<C>(x), as_block<C>(std::as_const(w)), std::as_const(rstd).data(),
                           as_rows<C>(dy), as_rows<C>(dx), as_block<C>(dw));
  }
  long double loss() {
    forward();
    return dot(y, dy);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("rms_norm: output and gradients equal the reference's", T, double, float) {
  golden_layer<T> const g{"rms_norm"};
  cpu::context<T> ctx{2};
  auto const x = g.in("x"), w = g.in("weight"), dy = g.cotangent();
  auto y = poisoned<T>(x.size()), rstd = poisoned<T>(x.size() / 24);
  std::vector<T> dx(x.size()), dw(w.size());
  cpu::rms_norm(ctx, as_rows<24>(x), as_block<24>(w), 1e-5, as_rows<24>(y), rstd.data());
  CHECK(g.out_error(y) < g.out_tolerance);
  cpu::rms_norm_backward(ctx, as_rows<24>(x), as_block<24>(w), std::as_const(rstd).data(), as_rows<24>(dy),
                         as_rows<24>(dx), as_block<24>(dw));
  CHECK(g.gradient_error("x", dx) < g.gradient_tolerance);
  CHECK(g.gradient_error("weight", dw) < g.gradient_tolerance);
}

TEST_CASE_TEMPLATE("rms_norm: equals its formula at any number of rows", F, norm_case<1>, norm_case<7>, norm_case<33>) {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    F f{count, 2};
    f.forward();
    CHECK(relative_error(f.y, naive::rms_norm(f.x, f.w, eps)) < 1e-14);
    for (std::size_t r = 0; r < count; ++r) {
      double square = 0;
      for (std::size_t c = 0; c < F::width; ++c) square += std::pow(f.x[r * F::width + c], 2);
      CHECK(std::abs(f.rstd[r] * std::sqrt(square / F::width + eps) - 1) < 1e-14);
    }
  }
}

TEST_CASE("rms_norm: the output may be the input, and rstd may be left out") {
  norm_case<7> f{17};
  f.forward();
  auto x = f.x;
  cpu::rms_norm(f.ctx, as_rows<7>(x), as_block<7>(std::as_const(f.w)), eps, as_rows<7>(x), nullptr);
  CHECK(x == f.y);
}

TEST_CASE("rms_norm: a row of zeros gives zeros") {
  norm_case<7> f{1};
  f.x.assign(7, 0);
  f.forward();
  for (double v : f.y) CHECK(v == 0);
  CHECK(f.rstd[0] == doctest::Approx(1 / std::sqrt(eps)));
}

TEST_CASE_TEMPLATE("rms_norm: gradients match central differences", F, norm_case<1>, norm_case<7>) {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    CAPTURE(count);
    F f{count, 2};
    f.forward();
    f.backward();
    CHECK(gradient_error(f.x, f.dx, [&] { return f.loss(); }) < gradient_tolerance);
    CHECK(gradient_error(f.w, f.dw, [&] { return f.loss(); }) < gradient_tolerance);
  }
}

TEST_CASE("rms_norm: the input's gradient joins what is already there, the weight's accumulates") {
  norm_case<7> f{17}, g{17};
  f.forward();
  f.backward();
  g.forward();
  g.dx.assign(g.dx.size(), 3);
  g.backward();
  g.dx = std::vector<double>(g.dx.size(), 3);
  g.backward();
  for (std::size_t i = 0; i < f.dx.size(); ++i) CHECK(std::abs(g.dx[i] - 3 - f.dx[i]) < 1e-12);
  for (std::size_t c = 0; c < f.dw.size(); ++c) CHECK(std::abs(g.dw[c] - 2 * f.dw[c]) <= 1e-15 * std::abs(g.dw[c]));
}

TEST_CASE("rms_norm: row counts that differ are refused by name, and nothing is written") {
  norm_case<7> f{4};
  f.y = poisoned(3 * 7);
  CHECK(shape_message([&] { f.forward(); }) == "rms_norm.y rows: got 3, expected 4");
  CHECK(untouched(f.y));
  CHECK(untouched(f.rstd));
  f.dx = poisoned(5 * 7);
  CHECK(shape_message([&] { f.backward(); }) == "rms_norm_backward.dx rows: got 5, expected 4");
  CHECK(untouched(f.dx));
  f.dy.resize(2 * 7);
  CHECK(shape_message([&] { f.backward(); }) == "rms_norm_backward.dy rows: got 2, expected 4");
  for (double v : f.dw) CHECK(v == 0);
}

TEST_CASE("rms_norm: one thread and two give the same bits") {
  norm_case<7> one{197, 1}, two{197, 2};
  for (norm_case<7>* f : {&one, &two}) f->forward(), f->backward();
  CHECK(one.y == two.y);
  CHECK(one.dx == two.dx);
  CHECK(one.dw == two.dw);
}
