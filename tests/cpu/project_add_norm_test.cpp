#include <dm2/cpu/project_add_norm.hpp>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 5, K = 7, N = 3;
constexpr double eps = 1e-3;

template <class V>
auto linear_view(V& weight, V& bias) {
  using T = std::remove_reference_t<decltype(*weight.data())>;
  return linear_parameters<T, D, K>{as_block<D, K>(weight), as_block<D>(bias)};
}
template <class V>
auto norm_view(V& norm, V& weight, V& bias) {
  using T = std::remove_reference_t<decltype(*weight.data())>;
  return norm_projection<T, N, D>{as_block<D>(norm), {as_block<N, D>(weight), as_block<N>(bias)}};
}

struct project_add_norm_case {
  std::size_t count;
  cpu::context<double> ctx;
  random_source random{107};
  std::vector<double> g, before, out_w, out_b, norm, in_w, in_b, dy, dend, dafter;  // dafter: from what follows
  std::vector<double> after, rstd, y, end;
  std::vector<double> dg, dbefore, dout_w, dout_b, dnorm, din_w, din_b;

  explicit project_add_norm_case(std::size_t rows_in, int threads = 1)
      : count{rows_in},
        ctx{threads},
        g{random.normal(count * K)},
        before{random.normal(count * D)},
        out_w{random.normal(D * K)},
        out_b{random.normal(D)},
        norm{random.normal(D)},
        in_w{random.normal(N * D)},
        in_b{random.normal(N)},
        dy{random.normal(count * N)},
        dend{random.normal(count * D)},
        dafter{random.normal(count * D)},
        after{poisoned(count * D)},
        rstd{poisoned(count)},
        y{poisoned(count * N)},
        end{poisoned(count * D)},
        dg{poisoned(count * K)},
        dbefore{dafter},
        dout_w(D * K),
        dout_b(D),
        dnorm(D),
        din_w(N * D),
        din_b(N) {}

  norm_point<double, D> point() { return {as_rows<D>(after), rstd.data()}; }
  auto out() const { return linear_view(out_w, out_b); }
  auto in() const { return norm_view(norm, in_w, in_b); }
  core_projection<double const, D, K> from() const { return {as_rows<K>(g), out()}; }
  core_projection<double, D, K> gradient() { return {as_rows<K>(dg), linear_view(dout_w, dout_b)}; }

  void forward() {
    cpu::project_add_norm_project(ctx, as_rows<K>(g), out(), as_rows<D>(before), point(), in(), eps, as_rows<N>(y));
  }
  void backward() {
    dbefore = dafter;
    cpu::project_add_norm_project_backward(ctx, from(), point(), in(), as_rows<N>(dy), as_rows<D>(dbefore), gradient(),
                                           norm_view(dnorm, din_w, din_b));
  }
  void forward_end() {
    cpu::project_add_norm(ctx, as_rows<K>(g), out(), as_rows<D>(before), point(), as_block<D>(std::as_const(norm)), eps,
                          as_rows<D>(end));
  }
  void backward_end() {
    cpu::project_add_norm_backward(ctx, from(), point(), as_block<D>(std::as_const(norm)), as_rows<D>(dend),
                                   as_rows<D>(dbefore), gradient(), as_block<D>(dnorm));
  }
  [[nodiscard]] std::vector<double> sum() const {
    auto x = naive::linear(g, out_w, out_b, K, D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += before[i];
    return x;
  }
};

}  // namespace

TEST_CASE("project_add_norm_project: is projection, addition, norm and projection, one after another") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    project_add_norm_case f{count, 2};
    f.forward();
    CHECK(relative_error(f.after, f.sum()) < 1e-14);
    CHECK(relative_error(f.y, naive::linear(naive::rms_norm(f.sum(), f.norm, eps), f.in_w, f.in_b, D, N)) < 1e-13);
    f.after = poisoned(f.after.size());
    f.forward_end();
    CHECK(relative_error(f.after, f.sum()) < 1e-14);
    CHECK(relative_error(f.end, naive::rms_norm(f.sum(), f.norm, eps)) < 1e-13);
  }
}

TEST_CASE("project_add_norm_project: biases that are views of nothing are left out") {
  project_add_norm_case f{7};
  linear_parameters<double const, D, K> out{as_block<D, K>(std::as_const(f.out_w)), {}};
  norm_projection<double const, N, D> in = f.in();
  in.in.bias = {};
  cpu::project_add_norm_project(f.ctx, as_rows<K>(f.g), out, as_rows<D>(f.before), f.point(), in, eps, as_rows<N>(f.y));
  f.out_b.assign(D, 0);
  CHECK(relative_error(f.y, naive::linear(naive::rms_norm(f.sum(), f.norm, eps), f.in_w, {}, D, N)) < 1e-13);
}

TEST_CASE("project_add_norm_project: the residual may be updated in place") {
  project_add_norm_case f{17}, g{17};
  f.forward();
  g.after = g.before;
  cpu::project_add_norm_project(g.ctx, as_rows<K>(g.g), g.out(), as_rows<D>(g.after), g.point(), g.in(), eps,
                                as_rows<N>(g.y));
  CHECK(g.after == f.after);
  CHECK(g.y == f.y);
}

TEST_CASE("norm_project: is the norm and the projection, and its gradients match central differences") {
  project_add_norm_case f{17};
  f.after = f.before;
  auto const forward = [&] {
    cpu::norm_project(f.ctx, f.point(), f.in(), eps, as_rows<N>(f.y));
    return dot(f.y, f.dy);
  };
  forward();
  CHECK(relative_error(f.y, naive::linear(naive::rms_norm(f.after, f.norm, eps), f.in_w, f.in_b, D, N)) < 1e-13);
  cpu::norm_project_backward(f.ctx, f.point(), f.in(), as_rows<N>(f.dy), as_rows<D>(f.dbefore),
                             norm_view(f.dnorm, f.din_w, f.din_b));
  for (std::size_t i = 0; i < f.dbefore.size(); ++i) f.dbefore[i] -= f.dafter[i];  // it was added to what was there
  CHECK(gradient_error(f.after, f.dbefore, forward) < gradient_tolerance);
  CHECK(gradient_error(f.norm, f.dnorm, forward) < gradient_tolerance);
  CHECK(gradient_error(f.in_w, f.din_w, forward) < gradient_tolerance);
  CHECK(gradient_error(f.in_b, f.din_b, forward) < gradient_tolerance);
}

TEST_CASE("project_add_norm_project: gradients match central differences") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    CAPTURE(count);
    project_add_norm_case f{count, 2};
    auto const loss = [&] {
      f.forward();
      return dot(f.y, f.dy) + dot(f.after, f.dafter);
    };
    f.forward();
    f.backward();
    CHECK(gradient_error(f.before, f.dbefore, loss) < gradient_tolerance);
    CHECK(gradient_error(f.g, f.dg, loss) < gradient_tolerance);
    CHECK(gradient_error(f.out_w, f.dout_w, loss) < gradient_tolerance);
    CHECK(gradient_error(f.out_b, f.dout_b, loss) < gradient_tolerance);
    CHECK(gradient_error(f.norm, f.dnorm, loss) < gradient_tolerance);
    CHECK(gradient_error(f.in_w, f.din_w, loss) < gradient_tolerance);
    CHECK(gradient_error(f.in_b, f.din_b, loss) < gradient_tolerance);
  }
}

TEST_CASE("project_add_norm: gradients match central differences, and what was in the residual's is overwritten") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    CAPTURE(count);
    project_add_norm_case f{count, 2};
    f.dbefore = poisoned(f.dbefore.size());
    auto const loss = [&] {
      f.forward_end();
      return dot(f.end, f.dend);
    };
    f.forward_end();
    f.backward_end();
    CHECK(gradient_error(f.before, f.dbefore, loss) < gradient_tolerance);
    CHECK(gradient_error(f.g, f.dg, loss) < gradient_tolerance);
    CHECK(gradient_error(f.out_w, f.dout_w, loss) < gradient_tolerance);
    CHECK(gradient_error(f.out_b, f.dout_b, loss) < gradient_tolerance);
    CHECK(gradient_error(f.norm, f.dnorm, loss) < gradient_tolerance);
  }
}

TEST_CASE("project_add_norm_project: parameter gradients accumulate") {
  project_add_norm_case f{17}, g{17};
  f.forward();
  f.backward();
  g.forward();
  g.backward();
  g.backward();
  CHECK(g.dg == f.dg);
  auto const doubled = [](std::vector<double> x) {
    for (double& v : x) v *= 2;
    return x;
  };
  CHECK(relative_error(g.dout_w, doubled(f.dout_w)) < 1e-14);
  CHECK(relative_error(g.dout_b, doubled(f.dout_b)) < 1e-14);
  CHECK(relative_error(g.dnorm, doubled(f.dnorm)) < 1e-14);
  CHECK(relative_error(g.din_w, doubled(f.din_w)) < 1e-14);
  CHECK(relative_error(g.din_b, doubled(f.din_b)) < 1e-14);
}

TEST_CASE("project_add_norm: row counts that differ are refused by name") {
  project_add_norm_case f{4};
  f.before.resize(3 * D);
  CHECK(shape_message([&] { f.forward(); }) == "project_add.before rows: got 3, expected 4");
  f.before.resize(4 * D);
  f.after = poisoned(5 * D);
  CHECK(shape_message([&] { f.forward(); }) == "project_add.after rows: got 5, expected 4");
  CHECK(untouched(f.after));
  f.after = poisoned(4 * D);
  f.y = poisoned(3 * N);
  CHECK(shape_message([&] { f.forward(); }) == "norm_project.y rows: got 3, expected 4");
  CHECK(untouched(f.y));
}
