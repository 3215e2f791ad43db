#include <doctest/doctest.h>

#include "cpu/stem_case.hpp"
#include "support/compare.hpp"

using namespace dm2;
using namespace dm2::test;

#define DM2_STEM_CASES stem_case<one_pixel>, stem_case<odd_grid>, stem_case<one_column>, stem_case<two_bands>

TEST_CASE_TEMPLATE("stem: the evaluation equals its formula with the running statistics", F, DM2_STEM_CASES) {
  for (int const batch : {1, 3}) {
    F f{batch, 2};
    f.evaluate();
    CHECK(relative_error(f.grid, naive_stem(f, f.mean, f.var, false)) < 1e-12);
  }
}

TEST_CASE("stem: no pictures write nothing") {
  stem_case<odd_grid> f{0};
  f.evaluate();
  CHECK(f.grid.empty());
}

TEST_CASE("stem: a part of a picture is refused by name, and nothing is written") {
  stem_case<odd_grid> f{2};
  f.grid = poisoned(29 * 7);
  CHECK(shape_message([&] { f.evaluate(); }) == "stem.grid: got 29 rows, expected a multiple of the tokens 15");
  CHECK(untouched(f.grid));
}

TEST_CASE("stem: one thread and two give the same numbers to rounding, and two runs the same bits") {
  stem_case<two_bands> one{2, 1}, two{2, 2}, again{2, 2};
  for (auto* f : {&one, &two, &again}) f->evaluate();
  CHECK(two.grid == again.grid);
  CHECK(relative_error(two.grid, one.grid) < 1e-14);
}
