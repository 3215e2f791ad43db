#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/project_add_norm/backward_case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <string>
#include <utility>

using namespace dm2;
using namespace dm2::test;

namespace {

template <class F>
void check_end(std::size_t count) {
  CAPTURE(count);
  F f{count};
  f.forward_end();
  f.dresidual_out = device_array<float>{count * F::D};
  f.backward_end();
  cpu::project_add_norm_backward(f.host, f.from_there(), f.point_there(), as_block<F::D>(std::as_const(f.norm)),
                                 as_rows<F::D>(std::as_const(f.dend)), as_rows<F::D>(f.dresidual),
                                 f.from_gradient_there(), as_block<F::D>(f.dnorm));
  f.check(5e-6);  // nothing is rounded on the way there
  f.out.check(tolerance<F::P>);
  CHECK(relative_error(f.dg_out.read(), f.dg) < tolerance<F::P>);
}

template <class F>
void check_start(std::size_t count) {
  CAPTURE(count);
  F f{count};
  f.forward();
  f.backward_start();
  cpu::norm_project_backward(f.host, f.point_there(), f.projection_there(), as_rows<F::N>(std::as_const(f.dy)),
                             as_rows<F::D>(f.dresidual), f.gradient_there());
  f.check(tolerance<F::P>);
  f.in.check(tolerance<F::P>);
}

using half_case = project_add_norm_backward_case<cuda::precision::bf16, 64, 96, 40>;

}  // namespace

TEST_CASE_TEMPLATE("project_add_norm_backward: equals the CPU's of what the forward left", P, DM2_PRECISIONS) {
  for (std::size_t const count : {1u, 17u, 64u, 65u, 197u}) {
    check_backward<project_add_norm_backward_case<P::value, 64, 96, 40>>(count);
    check_end<project_add_norm_backward_case<P::value, 64, 96, 40>>(count);
    check_start<project_add_norm_backward_case<P::value, 64, 96, 40>>(count);
    check_backward<project_add_norm_backward_case<P::value, 5, 7, 3>>(count);
    check_end<project_add_norm_backward_case<P::value, 5, 7, 3>>(count);
    check_start<project_add_norm_backward_case<P::value, 5, 7, 3>>(count);
  }
}

TEST_CASE_TEMPLATE("project_add_norm_backward: at Tiny's sizes", P, in_bf16, in_fp32) {
  check_backward<tiny_case<P::value>>(65);
  check_end<tiny_case<P::value>>(65);
}

TEST_CASE_TEMPLATE("project_add_norm_backward: at Tiny's sizes and many rows [long]", P, DM2_PRECISIONS) {
  for (std::size_t const count : {785u, 3137u}) {
    check_backward<tiny_case<P::value>>(count);
    check_end<tiny_case<P::value>>(count);
    check_start<tiny_case<P::value>>(count);
  }
}

TEST_CASE("project_add_norm_backward: two runs give the same bits, a plan takes a run's memory and writes nothing") {
  half_case f{197}, g{197};
  f.forward();
  g.forward();
  f.ctx.plan([&] { f.backward(); });
  CHECK(f.dresidual_out.read() == f.dresidual);
  for (double v : f.dg_out.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes(), plans = f.ctx.products().size();
  f.backward();
  CHECK(f.ctx.scratch_bytes() == bytes);
  CHECK(f.ctx.products().size() == plans);
  g.backward();
  CHECK(g.dresidual_out.read() == f.dresidual_out.read());
  CHECK(g.dg_out.read() == f.dg_out.read());
  CHECK(g.in.dw_out.read() == f.in.dw_out.read());
  CHECK(g.in.db_out.read() == f.in.db_out.read());
  CHECK(g.out.dw_out.read() == f.out.dw_out.read());
  CHECK(g.dnorm_out.read() == f.dnorm_out.read());
}

TEST_CASE("project_add_norm_backward: row counts that differ are refused by name, and nothing is written") {
  auto const refused = [](auto const& break_it, auto const& run) {
    half_case f{4};
    f.forward();
    break_it(f);
    std::string const message = shape_message([&] { run(f); });
    CHECK(f.out.dw_out.read() == f.out.dw);
    CHECK(f.dnorm_out.read() == f.dnorm);
    return message;
  };
  auto const run = [](half_case& f) { f.backward(); };
  auto const end = [](half_case& f) { f.backward_end(); };
  auto const start = [](half_case& f) { f.backward_start(); };
  using T = __nv_bfloat16;
  CHECK(refused([](half_case& f) { f.g_in = device_array<T>{3 * 96}; }, run) ==
        "project_add_norm_project_backward.from.core rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dg_out = device_array<T>{3 * 96}; }, run) ==
        "project_add_norm_project_backward.grad.core rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dy_in = device_array<T>{3 * 40}; }, start) ==
        "norm_project_backward.dy rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dresidual_out = device_array<float>{5 * 64}; }, start) ==
        "norm_project_backward.dresidual rows: got 5, expected 4");
  CHECK(refused([](half_case& f) { f.dend_in = device_array<T>{3 * 64}; }, end) ==
        "project_add_norm_backward.dy rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dresidual_out = device_array<float>{5 * 64}; }, end) ==
        "project_add_norm_backward.dresidual rows: got 5, expected 4");
}
