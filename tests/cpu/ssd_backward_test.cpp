#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/ssd_case.hpp"
#include "support/gradcheck.hpp"

#include <cmath>
#include <string>

using namespace dm2;
using namespace dm2::test;

#define DM2_GOLDEN_SCANS golden_l1, golden_l17, golden_l65, golden_l197, golden_extreme
#define DM2_SCAN_CASES ssd_case<one_group>, ssd_case<two_groups>

TEST_CASE_TEMPLATE("ssd_backward: every gradient equals the reference's", Case, DM2_GOLDEN_SCANS) {
  auto const check = [](auto zero) {
    using T = decltype(zero);
    golden_layer<T> const g{Case::name};
    auto f = golden_ssd<Case, T>(g);
    f.backward();
    CHECK(g.gradient_error("x", f.dx) < g.gradient_tolerance);
    CHECK(g.gradient_error("dt", f.ddt) < g.gradient_tolerance);
    CHECK(g.gradient_error("A", f.da) < g.gradient_tolerance);
    CHECK(g.gradient_error("B", f.db) < g.gradient_tolerance);
    CHECK(g.gradient_error("C", f.dc) < g.gradient_tolerance);
    CHECK(g.gradient_error("D", f.dd) < g.gradient_tolerance);
  };
  SUBCASE("double") { check(0.0); }
  SUBCASE("float") { check(0.0f); }
}

TEST_CASE_TEMPLATE("ssd_backward: gradients match central differences", F, DM2_SCAN_CASES) {
  for (int const length : {1, 7, 17, 64, 65, 129, 197}) {
    CAPTURE(length);
    auto f = random_ssd<F::shape>(2, length, 2);
    auto const loss = [&] {
      f.forward();
      return dot(f.y, f.dy);
    };
    f.backward();
    CHECK(gradient_error(f.x, f.dx, loss) < gradient_tolerance);
    CHECK(gradient_error(f.dt, f.ddt, loss) < gradient_tolerance);
    CHECK(gradient_error(f.b, f.db, loss) < gradient_tolerance);
    CHECK(gradient_error(f.c, f.dc, loss) < gradient_tolerance);
    CHECK(gradient_error(f.d, f.dd, loss) < gradient_tolerance);
    if (length == 1) continue;  // one token has nothing to forget: dA is zero
    CHECK(gradient_error(f.a, f.da, loss) < gradient_tolerance);
  }
}

TEST_CASE("ssd_backward: one token has no gradient of its decay") {
  auto f = random_ssd<two_groups>(2, 1);
  f.backward();
  for (double v : f.da) CHECK(std::abs(v) < 1e-15);
}

TEST_CASE("ssd_backward: input gradients are overwritten, those of A and D accumulate") {
  auto f = random_ssd<two_groups>(3, 65), g = random_ssd<two_groups>(3, 65);
  f.backward();
  g.backward();
  g.backward();
  CHECK(g.dx == f.dx);
  CHECK(g.ddt == f.ddt);
  CHECK(g.db == f.db);
  CHECK(g.dc == f.dc);
  for (std::size_t h = 0; h < 4; ++h) {
    CHECK(g.da[h] == doctest::Approx(2 * f.da[h]).epsilon(1e-14));
    CHECK(g.dd[h] == doctest::Approx(2 * f.dd[h]).epsilon(1e-14));
  }
}

TEST_CASE("ssd_backward: the gradient of a batch is that of its sequences, also of more than are summed at a time") {
  constexpr int batch = 2 * cpu::detail::gradient_parts + 3, length = 3;
  auto all = random_ssd<two_groups>(batch, length, 2), one = random_ssd<two_groups>(1, length);
  all.backward();
  one.a = all.a;
  one.d = all.d;
  for (int i = 0; i < batch; ++i) {
    auto const part = [&](auto const& v, int n) { return sequence_of(v, i, length, n); };
    one.x = part(all.x, 12), one.dt = part(all.dt, 4), one.b = part(all.b, 14), one.c = part(all.c, 14);
    one.dy = part(all.dy, 12);
    one.backward();
    CHECK(one.dx == part(all.dx, 12));
    CHECK(one.ddt == part(all.ddt, 4));
  }
  CHECK(relative_error(all.da, one.da) < 1e-13);
  CHECK(relative_error(all.dd, one.dd) < 1e-13);
}

TEST_CASE("ssd_backward: operands that disagree are refused by name, and nothing is written") {
  auto const message = [](auto const& spoil) {
    auto f = random_ssd<one_group>(2, 7);
    spoil(f);
    std::string const text = shape_message([&] { f.backward(); });
    CHECK(untouched(f.dx));
    CHECK(untouched(f.ddt));
    for (double v : f.da) CHECK(v == 0);
    return text;
  };
  CHECK(message([](auto& f) { f.dy.resize(130); }) == "ssd_backward.dy rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.dx.resize(130); }) == "ssd_backward.grad.x rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.ddt.resize(26); }) == "ssd_backward.grad.dt rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.db.resize(39); }) == "ssd_backward.grad.b rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.dc.resize(39); }) == "ssd_backward.grad.c rows: got 13, expected 14");
}

TEST_CASE("ssd_backward: one thread and two give the same bits") {
  auto one = random_ssd<one_group>(19, 65, 1), two = random_ssd<one_group>(19, 65, 2);
  one.backward();
  two.backward();
  CHECK(one.dx == two.dx);
  CHECK(one.ddt == two.ddt);
  CHECK(one.da == two.da);
  CHECK(one.db == two.db);
  CHECK(one.dd == two.dd);
}
