#include <dm2/cpu/rotary.hpp>

#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <cmath>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cpu::sequence;

namespace {

/// Turns every head of x [batch, length, heads, d] in place.
template <class T>
void rotate_heads(std::vector<T>& x, int length, int heads, int d, int rot, int direction) {
  auto table = poisoned<T>(std::size_t(length * rot));
  cpu::rotary_table(length, rot, table.data());
  for (std::size_t at = 0; at < x.size(); at += std::size_t(length * heads * d))
    for (int h = 0; h < heads; ++h)
      cpu::rotate(sequence<T>{x.data() + at + h * d, heads * d, length}, rot, table.data(), T(direction));
}

}  // namespace

TEST_CASE_TEMPLATE("rotary: output and gradient equal the reference's", T, double, float) {
  golden_layer<T> const g{"rotary"};
  auto x = g.in("x"), dy = g.cotangent();
  rotate_heads(x, 6, 3, 24, 16, 1);
  CHECK(g.out_error(x) < g.out_tolerance);
  rotate_heads(dy, 6, 3, 24, 16, -1);
  CHECK(g.gradient_error("x", dy) < g.gradient_tolerance);
}

TEST_CASE("rotary: equals its formula for none, some and all of a head's channels") {
  for (int const rot : {0, 2, 4, 10})
    for (int const length : {1, 7, 197}) {
      CAPTURE(rot);
      CAPTURE(length);
      auto x = random_source{23}.normal(std::size_t(length) * 3 * 11);
      auto const want = naive::rotary(x, 3, 11, rot);
      rotate_heads(x, length, 3, 11, rot, 1);
      CHECK(relative_error(x, want) < 1e-13);
    }
}

TEST_CASE("rotary: turning back undoes turning, token 0 does not turn, and the rest of a head stays") {
  auto const x = random_source{29}.normal(17 * 11);
  auto turned = x;
  rotate_heads(turned, 17, 1, 11, 8, 1);
  for (std::size_t c = 0; c < 11; ++c) CHECK(turned[c] == x[c]);
  for (std::size_t t = 0; t < 17; ++t)
    for (std::size_t c = 8; c < 11; ++c) CHECK(turned[t * 11 + c] == x[t * 11 + c]);
  rotate_heads(turned, 17, 1, 11, 8, -1);
  CHECK(relative_error(turned, x) < 1e-15);
}

TEST_CASE("rotary: the gradient matches central differences") {
  for (int const length : {1, 7, 17, 197}) {
    random_source random{31};
    auto x = random.normal(std::size_t(length) * 11);
    auto const w = random.normal(x.size());
    auto dx = w;
    rotate_heads(dx, length, 1, 11, 6, -1);
    CHECK(gradient_error(x, dx, [&] {
            auto y = x;
            rotate_heads(y, length, 1, 11, 6, 1);
            return dot(y, w);
          }) < gradient_tolerance);
  }
}

TEST_CASE("rotary: float angles keep their digits at token 784") {
  std::vector<float> table(785 * 48);
  std::vector<double> exact(table.size());
  cpu::rotary_table(785, 48, table.data());
  cpu::rotary_table(785, 48, exact.data());
  for (std::size_t i = 0; i < table.size(); ++i) CHECK(std::abs(double(table[i]) - exact[i]) < 1e-7);
}
