#include <dm2/cpu/heads.hpp>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/heads/general.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <cuda::precision P, int K, int D>
struct head_case {
  using T = cuda::element<P>;
  int batch, length;
  cpu::context<double> host{2};
  cuda::context<P> ctx;
  random_source random{109};
  std::vector<double> x, w, b, aux_w, aux_b;
  device_array<T> dx, dw, daux_w;
  device_array<float> db, daux_b, logits, cls, aux;

  head_case(int pictures, int tokens)
      : batch{pictures},
        length{tokens},
        x{rounded<T>(random.normal(count() * D))},
        w{rounded<T>(random.normal(K * D))},
        b{rounded<float>(random.normal(K))},
        aux_w{rounded<T>(random.normal(K * D))},
        aux_b{rounded<float>(random.normal(K))},
        dx{x},
        dw{w},
        daux_w{aux_w},
        db{b},
        daux_b{aux_b},
        logits{std::size_t(batch) * K},
        cls{logits.size()},
        aux{(count() - std::size_t(batch)) * K} {}

  [[nodiscard]] std::size_t count() const { return std::size_t(batch) * std::size_t(length); }
  [[nodiscard]] head_parameters<double const, K, D> host_parameters() const {
    return {{as_block<K, D>(w), as_block<K>(b)}, {as_block<K, D>(aux_w), as_block<K>(aux_b)}};
  }
  [[nodiscard]] head_parameters<float const, K, D, space::device, T const> parameters() const {
    return {{dw.template as_block<K, D>(), db.template as_block<K>()},
            {daux_w.template as_block<K, D>(), daux_b.template as_block<K>()}};
  }
  void evaluate() {
    cuda::detail::heads::evaluation_heads_general(ctx, dx.template as_rows<D>(), parameters(),
                                                  logits.template as_rows<K>(), length);
  }
  void forward() {
    cuda::training_heads(ctx, dx.template as_rows<D>(), parameters(), cls.template as_rows<K>(),
                         aux.template as_rows<K>(), length);
  }
};

/// Operands are exact and sums are float, but for TF32.
template <cuda::precision P>
inline constexpr double tolerance = P == cuda::precision::tf32 ? 1e-3 : 2e-6;

template <cuda::precision P, int K, int D>
void check_heads(int batch, int length) {
  CAPTURE(length);
  head_case<P, K, D> f{batch, length};
  f.evaluate();
  auto want = poisoned(f.logits.size()), cls = want, aux = poisoned(f.aux.size());
  cpu::evaluation_heads(f.host, as_rows<D>(f.x), f.host_parameters(), as_rows<K>(want), length);
  CHECK(relative_error(f.logits.read(), want) < tolerance<P>);
  f.forward();
  cpu::training_heads(f.host, as_rows<D>(f.x), f.host_parameters(), as_rows<K>(cls), as_rows<K>(aux), length);
  CHECK(relative_error(f.cls.read(), cls) < tolerance<P>);
  CHECK(relative_error(f.aux.read(), aux) < tolerance<P>);
  CHECK((f.logits.margins_untouched() && f.cls.margins_untouched() && f.aux.margins_untouched()));
}

}  // namespace

TEST_CASE_TEMPLATE("heads_general: equal the CPU's for one patch, an odd number, and many", P, DM2_PRECISIONS) {
  for (int const length : {2, 3, 17, 63, 64, 65, 197}) {
    check_heads<P::value, 7, 5>(3, length);
    check_heads<P::value, 40, 96>(2, length);
  }
  check_heads<P::value, 7, 5>(1, 785);
}

TEST_CASE("heads_general: equal the CPU's where a tile holds a few pictures, and where it holds part of one") {
  cuda::detail::heads::head_tiles const few{7, 2000, 1000}, part{7, 2000, 60000};
  CHECK(few.pictures == 2);
  CHECK(few.tokens == 2000);
  CHECK(part.pictures == 1);
  CHECK(part.tokens == 69);
  check_heads<cuda::precision::fp32, 60000, 2>(2, 139);
  check_heads<cuda::precision::fp32, 10000, 2>(5, 200);
}

TEST_CASE("heads_general: negative patch logits count, the class token is no patch, and a NaN stays") {
  head_case<cuda::precision::fp32, 7, 5> f{1, 7};
  f.dw = device_array<float>{std::vector<double>(7 * 5)};
  f.db = device_array<float>{std::vector<double>(7, 1)};
  f.daux_w = device_array<float>{std::vector<double>(7 * 5, 1)};
  f.daux_b = device_array<float>{std::vector<double>(7, -4)};
  std::vector<double> x(7 * 5);
  for (std::size_t c = 0; c < 5; ++c) x[3 * 5 + c] = 100;
  f.dx = device_array<float>{x};
  f.evaluate();
  for (double v : f.logits.read()) CHECK(v == -1);
  x[5] = std::nan("");
  f.dx = device_array<float>{x};
  f.evaluate();
  for (double v : f.logits.read()) CHECK(v != v);
}

TEST_CASE("heads_general: a head whose logits are a view of nothing is not computed") {
  head_case<cuda::precision::bf16, 7, 5> f{3, 7}, g{3, 7};
  f.forward();
  cuda::training_heads(g.ctx, g.dx.as_rows<5>(), g.parameters(), g.cls.as_rows<7>(), {}, 7);
  CHECK(g.cls.read() == f.cls.read());
  for (double v : g.aux.read()) REQUIRE(v != v);
  g.cls = device_array<float>{g.cls.size()};
  cuda::training_heads(g.ctx, g.dx.as_rows<5>(), g.parameters(), {}, g.aux.as_rows<7>(), 7);
  CHECK(g.aux.read() == f.aux.read());
  for (double v : g.cls.read()) CHECK(v != v);
}

TEST_CASE_TEMPLATE("heads_general: training logits may be of the context's element", P, in_bf16, in_fp16) {
  using T = cuda::element<P::value>;
  head_case<P::value, 40, 96> f{2, 65}, g{2, 65};
  device_array<T> const cls{f.cls.size()}, aux{f.aux.size()};
  cuda::training_heads(f.ctx, f.dx.template as_rows<96>(), f.parameters(), cls.template as_rows<40>(),
                       aux.template as_rows<40>(), 65);
  g.forward();
  CHECK(relative_error(cls.read(), g.cls.read()) < rounding_tolerance<T>);
  CHECK(relative_error(aux.read(), g.aux.read()) < rounding_tolerance<T>);
  CHECK((cls.margins_untouched() && aux.margins_untouched()));
}

TEST_CASE("heads_general: a plan takes the memory of a run, and two runs give the same bits") {
  head_case<cuda::precision::bf16, 40, 96> f{3, 197};
  f.ctx.plan([&] {
    f.evaluate();
    f.forward();
  });
  for (double v : f.logits.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes();
  f.evaluate();
  f.forward();
  auto const logits = f.logits.read(), aux = f.aux.read();
  f.evaluate();
  f.forward();
  CHECK(f.logits.read() == logits);
  CHECK(f.aux.read() == aux);
  CHECK(f.ctx.scratch_bytes() == bytes);
}

TEST_CASE("heads_general: rows that disagree are refused by name, and nothing is written") {
  head_case<cuda::precision::fp32, 7, 5> f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.evaluate(); }) ==
        "evaluation_heads.features: got 14 rows, expected a multiple of the length 5");
  f.length = 1;
  CHECK(shape_message([&] { f.evaluate(); }) ==
        "evaluation_heads.length: got 1, expected at least 2: the class token and a patch");
  f.length = 7;
  f.logits = device_array<float>{3 * 7};
  CHECK(shape_message([&] { f.evaluate(); }) == "evaluation_heads.logits rows: got 3, expected 2");
  f.cls = device_array<float>{7};
  CHECK(shape_message([&] { f.forward(); }) == "training_heads.cls rows: got 1, expected 2");
  f.cls = device_array<float>{2 * 7};
  f.aux = device_array<float>{11 * 7};
  CHECK(shape_message([&] { f.forward(); }) == "training_heads.aux rows: got 11, expected 12");
  for (double v : f.logits.read()) CHECK(v != v);
  for (double v : f.cls.read()) CHECK(v != v);
}
