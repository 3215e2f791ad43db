#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/ssd_case.hpp"
#include "support/compare.hpp"

#include <string>

using namespace dm2;
using namespace dm2::test;
using cpu::scan_form;

#define DM2_GOLDEN_SCANS golden_l1, golden_l17, golden_l65, golden_l197, golden_extreme
#define DM2_SCAN_CASES ssd_case<one_group>, ssd_case<two_groups>

TEST_CASE_TEMPLATE("ssd: both forms equal the reference's recurrence", Case, DM2_GOLDEN_SCANS) {
  auto const check = [](auto zero) {
    using T = decltype(zero);
    golden_layer<T> const g{Case::name};
    auto f = golden_ssd<Case, T>(g);
    for (scan_form const form : {scan_form::automatic, scan_form::quadratic, scan_form::chunked}) {
      f.y = poisoned<T>(f.y.size());
      f.forward(form);
      CHECK(g.out_error(f.y) < g.out_tolerance);
    }
  };
  SUBCASE("double") { check(0.0); }
  SUBCASE("float") { check(0.0f); }
}

TEST_CASE_TEMPLATE("ssd: both forms equal the recurrence at lengths around the tile's", F, DM2_SCAN_CASES) {
  for (int const length : {1, 2, 7, 17, 63, 64, 65, 127, 128, 129, 197, 785}) {
    auto f = random_ssd<F::shape>(2, length, 2);
    auto const want = naive_ssd(f);
    for (scan_form const form : {scan_form::automatic, scan_form::quadratic, scan_form::chunked}) {
      CAPTURE(length);
      CAPTURE(int(form));
      f.y = poisoned(f.y.size());
      f.forward(form);
      CHECK(relative_error(f.y, want) < 1e-12);
    }
  }
}

TEST_CASE("ssd: a head that forgets nothing sums, and one that forgets at once only sees its own token") {
  auto f = random_ssd<one_group>(1, 197);
  for (std::size_t t = 0; t < 197; ++t) f.dt[t * 2] = 1e-9, f.dt[t * 2 + 1] = 1e4;
  auto const want = naive_ssd(f);
  for (scan_form const form : {scan_form::quadratic, scan_form::chunked}) {
    f.forward(form);
    CHECK(relative_error(f.y, want) < 1e-12);
  }
}

TEST_CASE("ssd: no step is no input") {
  auto f = random_ssd<two_groups>(1, 129);
  f.dt.assign(f.dt.size(), 0);
  for (scan_form const form : {scan_form::quadratic, scan_form::chunked}) {
    f.forward(form);
    for (std::size_t i = 0; i < f.y.size(); ++i) CHECK(f.y[i] == f.d[i / 3 % 4] * f.x[i]);
  }
}

TEST_CASE("ssd: the automatic form is quadratic for a short sequence and goes in chunks for a long one") {
  constexpr mixer_shape tiny{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
  CHECK_FALSE(cpu::detail::use_chunks(tiny, 1, scan_form::automatic));
  CHECK_FALSE(cpu::detail::use_chunks(tiny, 197, scan_form::automatic));
  CHECK(cpu::detail::use_chunks(tiny, 785, scan_form::automatic));
  CHECK(cpu::detail::use_chunks(tiny, 1, scan_form::chunked));
  CHECK_FALSE(cpu::detail::use_chunks(tiny, 785, scan_form::quadratic));
}

TEST_CASE("ssd: operands that disagree are refused by name, and nothing is written") {
  auto const message = [](auto const& spoil) {
    auto f = random_ssd<one_group>(2, 7);
    spoil(f);
    std::string const text = shape_message([&] { f.forward(); });
    CHECK(untouched(f.y));
    return text;
  };
  CHECK(message([](auto& f) { f.length = 5; }) == "ssd.x: got 14 rows, expected a multiple of the length 5");
  CHECK(message([](auto& f) { f.length = 0; }) == "ssd.x: got 14 rows, expected a multiple of the length 0");
  CHECK(message([](auto& f) { f.dt.resize(13 * 2); }) == "ssd.dt rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.b.resize(13 * 3); }) == "ssd.b rows: got 13, expected 14");
  CHECK(message([](auto& f) { f.c.resize(15 * 3); }) == "ssd.c rows: got 15, expected 14");
  CHECK(message([](auto& f) { f.y.resize(13 * 10); }) == "ssd.y rows: got 13, expected 14");
}

TEST_CASE("ssd: one thread and two give the same bits") {
  auto one = random_ssd<two_groups>(5, 129, 1), two = random_ssd<two_groups>(5, 129, 2);
  one.forward();
  two.forward();
  CHECK(one.y == two.y);
}
