#include <doctest/doctest.h>

#include "cpu/stem_case.hpp"
#include "support/gradcheck.hpp"

#include <utility>

using namespace dm2;
using namespace dm2::test;

#define DM2_STEM_CASES stem_case<one_pixel>, stem_case<odd_grid>, stem_case<one_column>, stem_case<two_bands>

TEST_CASE_TEMPLATE("stem_train: equals its formula with the batch's statistics, which move the running ones", F,
                   DM2_STEM_CASES) {
  for (int const batch : {1, 3}) {
    if (batch * F::shape.half_height() * F::shape.half_width() == 1) continue;  // zero variance: rounding over eps
    F f{batch, 2};
    auto mean = f.mean, var = f.var;
    auto const want = naive_stem(f, mean, var, true);
    f.forward();
    CHECK(relative_error(f.grid, want) < 1e-11);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(relative_error(f.mean[i], mean[i]) < 1e-12);
      CHECK(relative_error(f.var[i], var[i]) < 1e-12);
    }
  }
}

TEST_CASE_TEMPLATE("stem_train: every gradient matches central differences", F, DM2_STEM_CASES) {
  F f{3, 2};
  auto const loss = [&] {
    f.forward();
    return dot(f.grid, f.dgrid);
  };
  f.forward();
  f.backward();
  double const step = 1e-6;  // no activation changes its sign
  CHECK(gradient_error(f.picture, f.dpicture, loss, 60, step) < gradient_tolerance);
  auto const parameters = f.p.all(), gradients = f.grad.all();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    CAPTURE(i);
    CHECK(gradient_error(*parameters[i], *gradients[i], loss, 60, step) < gradient_tolerance);
  }
}

TEST_CASE("stem_train: the picture's gradient is overwritten or left out, the parameters' accumulate") {
  stem_case<odd_grid> f{2}, g{2};
  f.forward();
  f.backward();
  g.forward();
  cpu::stem_backward<odd_grid>(g.ctx, std::as_const(g.picture).data(), stem_view<odd_grid>(std::as_const(g.p)), g.saved,
                               as_rows<7>(std::as_const(g.dgrid)), stem_view<odd_grid>(g.grad), nullptr);
  CHECK(untouched(g.dpicture));
  auto const first = f.grad.all(), second = g.grad.all();
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(*first[i] == *second[i]);
  g.backward();
  CHECK(g.dpicture == f.dpicture);
  for (std::size_t i = 0; i < first.size(); ++i) {
    for (double& v : *first[i]) v *= 2;
    CHECK(relative_error(*second[i], *first[i]) < 1e-13);
  }
}

TEST_CASE("stem_train: a batch of more pictures than are summed at a time has the sum of all gradients") {
  stem_case<one_column> f{cpu::detail::gradient_parts + 3, 2};
  auto const loss = [&] {
    f.forward();
    return dot(f.grid, f.dgrid);
  };
  f.forward();
  f.backward();
  CHECK(gradient_error(f.p.conv1, f.grad.conv1, loss, 12, 1e-7) < gradient_tolerance);
  CHECK(gradient_error(f.p.conv[1], f.grad.conv[1], loss, 12, 1e-7) < gradient_tolerance);
  CHECK(gradient_error(f.picture, f.dpicture, loss, 24, 1e-6) < gradient_tolerance);
}

TEST_CASE("stem_train: a part of a picture is refused by name, and nothing is written") {
  stem_case<odd_grid> f{2};
  auto const mean = f.mean;
  f.grid = poisoned(29 * 7);
  CHECK(shape_message([&] { f.forward(); }) == "stem.grid: got 29 rows, expected a multiple of the tokens 15");
  CHECK(untouched(f.grid));
  CHECK(f.mean == mean);
  f.dgrid.resize(31 * 7);
  CHECK(shape_message([&] { f.backward(); }) == "stem.grid: got 31 rows, expected a multiple of the tokens 15");
  CHECK(untouched(f.dpicture));
  for (double v : f.grad.conv1) CHECK(v == 0);
}

TEST_CASE("stem_train: convolutions and statistics give the same bits on one thread and on two") {
  stem_case<odd_grid> one{3, 1}, two{3, 2};
  for (auto* f : {&one, &two}) f->forward();
  CHECK(one.mean == two.mean);
  CHECK(one.var == two.var);
  CHECK(relative_error(one.grid, two.grid) < 1e-14);
  for (auto* f : {&one, &two}) f->backward();
  auto const first = one.grad.all(), second = two.grad.all();
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(relative_error(*first[i], *second[i]) < 1e-12);
  CHECK(relative_error(one.dpicture, two.dpicture) < 1e-12);
}
