#include <dm2/cpu/linear.hpp>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int K = 5, N = 7;

struct linear_case {
  std::size_t count;
  cpu::context<double> ctx;
  random_source random{3};
  std::vector<double> x, w, bias, dy, y, dx, dw, db;

  explicit linear_case(std::size_t rows_in, int threads = 1)
      : count{rows_in},
        ctx{threads},
        x{random.normal(count * K)},
        w{random.normal(N * K)},
        bias{random.normal(N)},
        dy{random.normal(count * N)},
        y{poisoned(count * N)},
        dx{poisoned(count * K)},
        dw(N * K),
        db(N) {}

  void forward() {
    cpu::linear(ctx, as_rows<K>(x), as_block<N, K>(std::as_const(w)), as_block<N>(bias), as_rows<N>(y));
  }
  void backward() {
    cpu::linear_backward(ctx, as_rows<K>(x), as_block<N, K>(std::as_const(w)), as_rows<N>(dy), as_rows<K>(dx),
                         as_block<N, K>(dw), as_block<N>(db));
  }
  long double loss() {
    forward();
    return dot(y, dy);
  }
};

}  // namespace

TEST_CASE("linear: equals the sum over input channels, with and without bias, on one thread and on two") {
  for (std::size_t const count : {1u, 7u, 33u, 65u, 197u})
    for (int const threads : {1, 2}) {
      CAPTURE(count);
      CAPTURE(threads);
      linear_case f{count, threads};
      f.forward();
      CHECK(relative_error(f.y, naive::linear(f.x, f.w, f.bias, K, N)) < 1e-14);
      f.y = poisoned(f.y.size());
      cpu::linear(f.ctx, as_rows<K>(f.x), as_block<N, K>(std::as_const(f.w)), {}, as_rows<N>(f.y));
      CHECK(relative_error(f.y, naive::linear(f.x, f.w, {}, K, N)) < 1e-14);
    }
}

TEST_CASE("linear: of no rows writes nothing") {
  linear_case f{0, 2};
  f.forward();
  f.backward();
  for (double v : f.dw) CHECK(v == 0);
}

TEST_CASE("linear: gradients match central differences") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    CAPTURE(count);
    linear_case f{count, 2};
    f.backward();
    CHECK(gradient_error(f.x, f.dx, [&] { return f.loss(); }) < gradient_tolerance);
    CHECK(gradient_error(f.w, f.dw, [&] { return f.loss(); }) < gradient_tolerance);
    CHECK(gradient_error(f.bias, f.db, [&] { return f.loss(); }) < gradient_tolerance);
  }
}

TEST_CASE("linear: parameter gradients accumulate, the input's is overwritten") {
  linear_case f{17};
  f.backward();
  auto const dx = f.dx;
  auto doubled = f.dw, doubled_bias = f.db;
  for (double& v : doubled) v *= 2;
  for (double& v : doubled_bias) v *= 2;
  f.backward();
  CHECK(f.dx == dx);
  CHECK(relative_error(f.dw, doubled) < 1e-15);
  CHECK(relative_error(f.db, doubled_bias) < 1e-15);
}

TEST_CASE("linear: gradients that are views of nothing are left out, and the others do not change") {
  linear_case f{17}, g{17};
  f.backward();
  cpu::linear_backward(g.ctx, as_rows<K>(g.x), as_block<N, K>(std::as_const(g.w)), as_rows<N>(g.dy), {},
                       as_block<N, K>(g.dw), {});
  CHECK(g.dw == f.dw);
  CHECK(untouched(g.dx));
}

TEST_CASE("linear: row counts that differ are refused by name, and nothing is written") {
  linear_case f{4};
  f.y = poisoned(3 * N);
  CHECK(shape_message([&] { f.forward(); }) == "linear.y rows: got 3, expected 4");
  CHECK(untouched(f.y));
  f.dx = poisoned(5 * K);
  CHECK(shape_message([&] { f.backward(); }) == "linear_backward.dx rows: got 5, expected 4");
  f.dy = poisoned(3 * N);
  CHECK(shape_message([&] { f.backward(); }) == "linear_backward.dy rows: got 3, expected 4");
  CHECK(untouched(f.dx));
  for (double v : f.dw) CHECK(v == 0);
}

TEST_CASE("linear: two runs give the same bits, two thread counts the same numbers to rounding") {
  linear_case one{197, 1}, two{197, 2}, again{197, 2};
  for (linear_case* f : {&one, &two, &again}) f->forward(), f->backward();
  CHECK(two.y == again.y);
  CHECK(two.dw == again.dw);
  CHECK(relative_error(two.y, one.y) < 1e-14);
  CHECK(relative_error(two.dw, one.dw) < 1e-14);
  CHECK(two.db == one.db);
}
