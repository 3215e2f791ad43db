#include <dm2/cpu/gated_activation.hpp>

#include <doctest/doctest.h>

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

constexpr int C = 7;

struct gate_case {
  cpu::context<double> ctx;
  random_source random{79};
  std::vector<double> in, dy, y, din;

  explicit gate_case(std::size_t count, int threads = 1)
      : ctx{threads},
        in{random.normal(count * 2 * C, 2)},
        dy{random.normal(count * C)},
        y{poisoned(count * C)},
        din{poisoned(count * 2 * C)} {}

  void forward() { cpu::gated_activation(ctx, as_rows<2 * C>(in), as_rows<C>(y)); }
  void backward() {
    cpu::gated_activation_backward(ctx, as_rows<2 * C>(in), as_rows<C>(std::as_const(dy)), as_rows<2 * C>(din));
  }
};

}  // namespace

TEST_CASE("gated_activation: is the first half times silu of the second") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    gate_case f{count, 2};
    f.forward();
    std::vector<double> want;
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t c = 0; c < C; ++c) want.push_back(f.in[r * 2 * C + c] * naive::silu(f.in[r * 2 * C + C + c]));
    CHECK(relative_error(f.y, want) < 1e-14);
  }
}

TEST_CASE("gated_activation: gradients match central differences") {
  for (std::size_t const count : {1u, 7u, 17u, 197u}) {
    gate_case f{count, 2};
    f.backward();
    CHECK(gradient_error(f.in, f.din, [&] {
            f.forward();
            return dot(f.y, f.dy);
          }) < gradient_tolerance);
  }
}

TEST_CASE("gated_activation: gates of any size give finite numbers") {
  gate_case f{2};
  for (std::size_t c = 0; c < C; ++c) f.in[C + c] = 800, f.in[3 * C + c] = -800;
  f.forward();
  f.backward();
  for (double v : f.y) CHECK(std::isfinite(v));
  for (double v : f.din) CHECK(std::isfinite(v));
}

TEST_CASE("gated_activation: the gradient may take the input's place") {
  gate_case f{17};
  f.backward();
  auto in_place = f.in;
  cpu::gated_activation_backward(f.ctx, as_rows<2 * C>(in_place), as_rows<C>(std::as_const(f.dy)),
                                 as_rows<2 * C>(in_place));
  CHECK(in_place == f.din);
}

TEST_CASE("gated_activation: row counts that differ are refused by name, and nothing is written") {
  gate_case f{4};
  f.y = poisoned(3 * C);
  CHECK(shape_message([&] { f.forward(); }) == "gated_activation.y rows: got 3, expected 4");
  CHECK(untouched(f.y));
  f.din = poisoned(5 * 2 * C);
  CHECK(shape_message([&] { f.backward(); }) == "gated_activation_backward.dinput rows: got 5, expected 4");
  f.dy.resize(3 * C);
  CHECK(shape_message([&] { f.backward(); }) == "gated_activation_backward.dy rows: got 3, expected 4");
  CHECK(untouched(f.din));
}

TEST_CASE("gated_activation: one thread and two give the same bits") {
  gate_case one{197, 1}, two{197, 2};
  for (gate_case* f : {&one, &two}) f->forward(), f->backward();
  CHECK(one.y == two.y);
  CHECK(one.din == two.din);
}
