#include <dm2/cpu/linear.hpp>

#include <doctest/doctest.h>

#include "cpu/ssd_case.hpp"
#include "support/allocation_counter.hpp"
#include "support/compare.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("context: for_each visits every number once, with empty scratch of the reserved size") {
  for (int const threads : {1, 2, 3})
    for (int const n : {0, 1, 2, 17}) {
      cpu::context<double> ctx{threads};
      REQUIRE(ctx.reserve(0, 1000));
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
      std::atomic<int> wrong{0};
      ctx.for_each(n, [&](int i, arena& scratch) {
        visits[std::size_t(i)] += 1;
        if (scratch.used() != 0 || scratch.capacity() < 1000) ++wrong;
        auto* const mine = scratch.take<char>(1000);
        std::fill_n(mine, 1000, char(i));
        if (std::accumulate(mine, mine + 1000, 0) != 1000 * i) ++wrong;
      });
      for (auto const& v : visits) CHECK(v == 1);
      CHECK(wrong == 0);
    }
}

TEST_CASE("context: for_range covers the range once, in parts that start at multiples of the grain") {
  for (int const threads : {1, 2, 3})
    for (std::ptrdiff_t const n : {0, 1, 16, 17, 31, 100}) {
      cpu::context<float> ctx{threads};
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
      std::atomic<int> wrong{0}, parts{0};
      ctx.for_range(n, 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
        ++parts;
        if (first % 16 != 0 || first >= last) ++wrong;
        for (std::ptrdiff_t i = first; i < last; ++i) visits[std::size_t(i)] += 1;
      });
      for (auto const& v : visits) CHECK(v == 1);
      CHECK(wrong == 0);
      CHECK(parts <= threads);
    }
}

TEST_CASE("context: what is planned is not computed, and runs later without operator new") {
  for (int const threads : {1, 2}) {
    auto f = random_ssd<two_groups>(3, 129, threads);
    f.ctx.plan([&] {
      f.forward();
      f.backward();
    });
    CHECK(untouched(f.y));
    CHECK(untouched(f.dx));
    CHECK(f.da == std::vector<double>(4));
    std::size_t const planned = f.ctx.scratch_bytes();
    allocation_counter const counter;
    f.forward();
    f.backward();
    CHECK(counter.calls() == 0);
    CHECK(f.ctx.scratch_bytes() == planned);
    CHECK_FALSE(std::isnan(f.y[0]));
  }
}

TEST_CASE("context: operands may be null while planning") {
  cpu::context<double> ctx{2};
  ctx.plan([&] {
    cpu::linear(ctx, rows<double const, 3>{nullptr, 100}, block<double const, space::host, 2, 3>{}, {},
                rows<double, 2>{nullptr, 100});
    cpu::ssd<one_group>(ctx, {{nullptr, 7}, {nullptr, 7}, {}, {nullptr, 7}, {nullptr, 7}, {}, 7}, {nullptr, 7});
  });
  CHECK(ctx.scratch_bytes() > 0);
}

TEST_CASE("context: planning ends where an operation throws") {
  auto f = random_ssd<one_group>(1, 7);
  CHECK_THROWS_AS(f.ctx.plan([] { throw std::runtime_error{"stop"}; }), std::runtime_error);
  f.forward();
  CHECK_FALSE(std::isnan(f.y[0]));
}

TEST_CASE("context: more threads than scratch was made for are safe in an operation that needs none") {
  auto f = random_ssd<one_group>(1, 7, 1);
  f.forward();  // makes scratch for one thread
  f.ctx.set_threads(3);
  random_source random{139};
  auto const x = random.normal(200 * 3), w = random.normal(2 * 3);
  auto y = poisoned(400);
  cpu::linear(f.ctx, as_rows<3>(x), as_block<2, 3>(w), {}, as_rows<2>(y));
  CHECK(relative_error(y, naive::linear(x, w, {}, 3, 2)) < 1e-14);
  f.forward();
  CHECK(relative_error(f.y, naive_ssd(f)) < 1e-12);
}

TEST_CASE("context: scratch only grows, and not while it is in use") {
  cpu::context<double> ctx{1};
  REQUIRE(ctx.reserve(1000, 0));
  CHECK(ctx.shared().capacity() >= 1000);
  std::size_t const before = ctx.scratch_bytes();
  REQUIRE(ctx.reserve(10, 0));
  CHECK(ctx.scratch_bytes() == before);
  arena_scope const scope{ctx.shared()};
  ctx.shared().take<double>(1);
  CHECK(ctx.reserve(1000, 0));
  CHECK_THROWS_AS(static_cast<void>(ctx.reserve(100'000, 0)), std::logic_error);
}

TEST_CASE("context: no number of threads means the default") {
  CHECK(cpu::context<float>{}.threads() == cpu::default_threads());
  CHECK(cpu::context<float>{-3}.threads() == cpu::default_threads());
  cpu::context<float> ctx{2};
  CHECK(ctx.threads() == 2);
  ctx.set_threads(5);
  CHECK(ctx.threads() == 5);
}
