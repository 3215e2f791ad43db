#include <doctest/doctest.h>

#include "cpu/attention_case.hpp"
#include "support/compare.hpp"

#include <cmath>

using namespace dm2;
using namespace dm2::test;

#define DM2_ATTENTION_CASES attention_case<plain_attention>, attention_case<partly_turned>, attention_case<fully_turned>

TEST_CASE_TEMPLATE("attention_core: equals its formula at lengths around the tile's", F, DM2_ATTENTION_CASES) {
  for (int const length : {1, 2, 7, 63, 64, 65, 128, 197}) {
    CAPTURE(length);
    F f{2, length, 2};
    f.forward();
    CHECK(relative_error(f.y, naive_attention(f)) < 1e-13);
  }
}

TEST_CASE("attention_core: scores of any size do not overflow") {
  attention_case<plain_attention> f{1, 7};
  for (double& v : f.qkv) v *= 1e4;
  f.forward();
  for (double v : f.y) CHECK(std::abs(v) < 1e5);
}

TEST_CASE("attention_core: is not causal: the first token sees the last") {
  attention_case<plain_attention> f{1, 65}, g{1, 65};
  g.qkv.back() += 1;
  f.forward();
  g.forward();
  CHECK(f.y[9] != g.y[9]);
}

TEST_CASE("attention_core: rows that disagree are refused by name, and nothing is written") {
  attention_case<partly_turned> f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.forward(); }) == "attention_core.qkv: got 14 rows, expected a multiple of the length 5");
  f.length = 7;
  CHECK(untouched(f.y));
  f.y = poisoned(13 * 21);
  CHECK(shape_message([&] { f.forward(); }) == "attention_core.y rows: got 13, expected 14");
  CHECK(untouched(f.y));
}

TEST_CASE("attention_core: one thread and two give the same bits") {
  attention_case<partly_turned> one{3, 65, 1}, two{3, 65, 2};
  one.forward();
  two.forward();
  CHECK(one.y == two.y);
}
