#include <doctest/doctest.h>

#include "cpu/mixer_case.hpp"
#include "support/gradcheck.hpp"

#include <vector>

using namespace dm2;
using namespace dm2::test;

#define DM2_MIXER_CASES mixer_case<published_mixer>, mixer_case<plain_mixer>, mixer_case<bidirectional_mixer>

TEST_CASE_TEMPLATE("mixer_core_backward: gradients match central differences", F, DM2_MIXER_CASES) {
  for (int const length : {1, 7, 17, 197}) {
    CAPTURE(length);
    F f{2, length, 2};
    auto const loss = [&] {
      f.forward();
      return dot(f.g, f.dg);
    };
    f.backward();
    CHECK(gradient_error(f.in, f.din, loss, 96) < gradient_tolerance);
    for (std::size_t k = 0; k < 2; ++k)
      for (std::size_t i = 0; i < 6; ++i) {
        CAPTURE(k);
        CAPTURE(direction_names[i]);
        if (i == 4 && f.second_d != k && k == 1) {  // the published second direction reads the first one's D
          for (double v : f.grad[k][i]) CHECK(v == 0);
          continue;
        }
        if (length == 1 && direction_names[i] == "a_log") continue;  // nothing to forget: zero
        CHECK(gradient_error(f.p[k][i], f.grad[k][i], loss, 60) < gradient_tolerance);
      }
  }
}

TEST_CASE("mixer_core_backward: the input's gradient is overwritten, the parameters' accumulate") {
  mixer_case<published_mixer> f{3, 17}, g{3, 17};
  f.backward();
  g.backward();
  g.backward();
  CHECK(g.din == f.din);
  for (std::size_t k = 0; k < 2; ++k)
    for (std::size_t i = 0; i < 6; ++i) {
      for (double& v : f.grad[k][i]) v *= 2;
      CHECK(relative_error(g.grad[k][i], f.grad[k][i]) < 1e-13);
    }
}

TEST_CASE_TEMPLATE(
    "mixer_core_backward: the gradient of a batch is that of its sequences, also of more than are summed at a time", F,
    mixer_case<plain_mixer>, mixer_case<bidirectional_mixer>) {
  constexpr int batch = cpu::detail::gradient_parts + 3, length = 4;
  F all{batch, length, 2}, one{1, length};
  all.backward();
  one.p = all.p;
  for (int i = 0; i < batch; ++i) {
    auto const part = [&](auto const& v, int n) {
      auto const first = v.begin() + std::ptrdiff_t{i} * length * n;
      return std::vector<double>(first, first + length * n);
    };
    one.in = part(all.in, F::projected), one.dg = part(all.dg, 2 * F::inner);
    one.backward();
    CHECK(one.din == part(all.din, F::projected));
  }
  for (std::size_t k = 0; k < 2; ++k)
    for (std::size_t i = 0; i < 6; ++i) CHECK(relative_error(all.grad[k][i], one.grad[k][i]) < 1e-12);
}

TEST_CASE("mixer_core_backward: rows that disagree are refused by name, and nothing is written") {
  mixer_case<plain_mixer> f{2, 7};
  f.din = poisoned(13 * f.projected);
  CHECK(shape_message([&] { f.backward(); }) == "mixer_core_backward.dzxbcdt rows: got 13, expected 14");
  CHECK(untouched(f.din));
  f.dg.resize(std::size_t(15 * 2 * f.inner));
  CHECK(shape_message([&] { f.backward(); }) == "mixer_core_backward.dg rows: got 15, expected 14");
  f.length = 4;
  CHECK(shape_message([&] { f.backward(); }) ==
        "mixer_core_backward.zxbcdt: got 14 rows, expected a multiple of the length 4");
  for (auto const& numbers : f.grad[0])
    for (double v : numbers) CHECK(v == 0);
}

TEST_CASE("mixer_core_backward: one thread and two give the same bits") {
  mixer_case<bidirectional_mixer> one{19, 7, 1}, two{19, 7, 2};
  one.backward();
  two.backward();
  CHECK(one.din == two.din);
  CHECK(one.grad == two.grad);
}
