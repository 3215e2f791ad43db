#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr double eps = 1e-3;

/// A projection's parameters, as an operation takes them here and there, and its gradients, which start as numbers.
template <class T, int N, int K>
struct linear_case {
  std::vector<double> w, b, dw, db;
  device_array<T> w_in;
  device_array<float> b_in, dw_out, db_out;

  explicit linear_case(random_source& random)
      : w{rounded<T>(random.normal(std::size_t{N} * K, 0.1))},
        b{rounded<float>(random.normal(N))},
        dw{rounded<float>(random.normal(std::size_t{N} * K))},
        db{rounded<float>(random.normal(N))},
        w_in{w},
        b_in{b},
        dw_out{dw},
        db_out{db} {}

  [[nodiscard]] linear_parameters<float const, N, K, space::device, T const> here() const {
    return {w_in.template as_block<N, K>(), b_in.template as_block<N>()};
  }
  [[nodiscard]] linear_parameters<float, N, K, space::device> gradient_here() const {
    return {dw_out.template as_block<N, K>(), db_out.template as_block<N>()};
  }
  [[nodiscard]] linear_parameters<double const, N, K> there() const { return {as_block<N, K>(w), as_block<N>(b)}; }
  [[nodiscard]] linear_parameters<double, N, K> gradient_there() { return {as_block<N, K>(dw), as_block<N>(db)}; }
  void check(double tolerance) const {
    CHECK(relative_error(dw_out.read(), dw) < tolerance);
    CHECK(relative_error(db_out.read(), db) < tolerance);
    CHECK((dw_out.margins_untouched() && db_out.margins_untouched()));
  }
};

/// A forward pass on the device, and backward of what it left.
template <cuda::precision Precision, int Width, int Inner, int Wide>
struct between_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int D = Width, K = Inner, N = Wide;
  using T = cuda::element<P>;
  std::size_t count;
  cuda::context<P> ctx;
  cpu::context<double> host{1};
  random_source random{107};
  std::vector<double> g, before, norm, dy, dend, dresidual, dnorm, residual, rstd, dg;
  linear_case<T, D, K> out{random};
  linear_case<T, N, D> in{random};
  device_array<T> g_in, dy_in, dend_in, y, end, dg_out;
  device_array<float> before_in, norm_in, after, rstd_out, dresidual_out, dnorm_out;

  explicit between_case(std::size_t rows_in)
      : count{rows_in},
        g{rounded<T>(random.normal(count * K))},
        before{rounded<float>(random.normal(count * D))},
        norm{rounded<float>(random.normal(D))},
        dy{rounded<T>(random.normal(count * N))},
        dend{rounded<T>(random.normal(count * D))},
        dresidual{rounded<float>(random.normal(count * D))},
        dnorm{rounded<float>(random.normal(D))},
        dg{poisoned(count * K)},
        g_in{g},
        dy_in{dy},
        dend_in{dend},
        y{count * N},
        end{count * D},
        dg_out{count * K},
        before_in{before},
        norm_in{norm},
        after{count * D},
        rstd_out{count},
        dresidual_out{dresidual},
        dnorm_out{dnorm} {}

  [[nodiscard]] norm_point<float, D, space::device> point() const {
    return {after.template as_rows<D>(), rstd_out.data()};
  }
  [[nodiscard]] norm_point<double, D> point_there() {
    residual = after.read(), rstd = rstd_out.read();
    return {as_rows<D>(residual), rstd.data()};
  }
  [[nodiscard]] norm_projection<float const, N, D, space::device, T const> projection() const {
    return {norm_in.template as_block<D>(), in.here()};
  }
  [[nodiscard]] norm_projection<double const, N, D> projection_there() const { return {as_block<D>(norm), in.there()}; }
  [[nodiscard]] norm_projection<float, N, D, space::device> gradient() const {
    return {dnorm_out.template as_block<D>(), in.gradient_here()};
  }
  [[nodiscard]] norm_projection<double, N, D> gradient_there() { return {as_block<D>(dnorm), in.gradient_there()}; }

  void forward() {
    cuda::project_add_norm_project(ctx, g_in.template as_rows<K>(), out.here(), before_in.template as_rows<D>(),
                                   point(), projection(), eps, y.template as_rows<N>());
  }
  void forward_end() {
    cuda::project_add_norm(ctx, g_in.template as_rows<K>(), out.here(), before_in.template as_rows<D>(), point(),
                           norm_in.template as_block<D>(), eps, end.template as_rows<D>());
  }
  void backward(cuda::between_backward_choice choice = cuda::between_backward_choice::composed) {
    cuda::project_add_norm_project_backward(ctx, g_in.template as_rows<K>(), out.here(), point(), projection(),
                                            dy_in.template as_rows<N>(), dresidual_out.template as_rows<D>(),
                                            dg_out.template as_rows<K>(), out.gradient_here(), gradient(), choice);
  }
  void backward_end() {
    cuda::project_add_norm_backward(ctx, g_in.template as_rows<K>(), out.here(), point(),
                                    norm_in.template as_block<D>(), dend_in.template as_rows<D>(),
                                    dresidual_out.template as_rows<D>(), dg_out.template as_rows<K>(),
                                    out.gradient_here(), dnorm_out.template as_block<D>());
  }
  void backward_start() {
    cuda::norm_project_backward(ctx, point(), projection(), dy_in.template as_rows<N>(),
                                dresidual_out.template as_rows<D>(), gradient());
  }
  void check(double tolerance) const {
    CHECK(relative_error(dresidual_out.read(), dresidual) < tolerance);
    CHECK(relative_error(dnorm_out.read(), dnorm) < tolerance);
    CHECK((dresidual_out.margins_untouched() && dnorm_out.margins_untouched()));
  }
};

/// Of operands that are rounded between the products.
template <cuda::precision P>
inline constexpr double tolerance = P == cuda::precision::fp32 ? 5e-6 : product_tolerance<P>;

template <class F>
void check_between(std::size_t count, cuda::between_backward_choice choice = cuda::between_backward_choice::composed) {
  CAPTURE(count);
  F f{count};
  f.forward();
  CHECK(f.before_in.read() == f.before);
  f.backward(choice);
  cpu::project_add_norm_project_backward(f.host, as_rows<F::K>(std::as_const(f.g)), f.out.there(), f.point_there(),
                                         f.projection_there(), as_rows<F::N>(std::as_const(f.dy)),
                                         as_rows<F::D>(f.dresidual), as_rows<F::K>(f.dg), f.out.gradient_there(),
                                         f.gradient_there());
  f.check(tolerance<F::P>);
  f.in.check(tolerance<F::P>);
  f.out.check(tolerance<F::P>);
  CHECK(relative_error(f.dg_out.read(), f.dg) < tolerance<F::P>);
  CHECK(f.dg_out.margins_untouched());
}

template <class F>
void check_end(std::size_t count) {
  CAPTURE(count);
  F f{count};
  f.forward_end();
  f.dresidual_out = device_array<float>{count * F::D};
  f.backward_end();
  cpu::project_add_norm_backward(f.host, as_rows<F::K>(std::as_const(f.g)), f.out.there(), f.point_there(),
                                 as_block<F::D>(std::as_const(f.norm)), as_rows<F::D>(std::as_const(f.dend)),
                                 as_rows<F::D>(f.dresidual), as_rows<F::K>(f.dg), f.out.gradient_there(),
                                 as_block<F::D>(f.dnorm));
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

template <class F>
void check_fused(std::size_t count) {
  static_assert(cuda::detail::between_backward_form<typename F::T, F::D, F::K, F::N>::possible);
  check_between<F>(count, cuda::between_backward_choice::fused);
}

template <cuda::precision P>
using tiny_case = between_case<P, 192, 768, 1032>;
using half_case = between_case<cuda::precision::bf16, 64, 96, 40>;

}  // namespace

TEST_CASE_TEMPLATE("project_add_norm_backward: equals the CPU's of what the forward left", P, DM2_PRECISIONS) {
  for (std::size_t const count : {1u, 17u, 64u, 65u, 197u}) {
    check_between<between_case<P::value, 64, 96, 40>>(count);
    check_end<between_case<P::value, 64, 96, 40>>(count);
    check_start<between_case<P::value, 64, 96, 40>>(count);
    check_between<between_case<P::value, 5, 7, 3>>(count);
    check_end<between_case<P::value, 5, 7, 3>>(count);
    check_start<between_case<P::value, 5, 7, 3>>(count);
  }
}

TEST_CASE_TEMPLATE("project_add_norm_backward: at Tiny's sizes", P, in_bf16, in_fp32) {
  check_between<tiny_case<P::value>>(65);
  check_end<tiny_case<P::value>>(65);
}

TEST_CASE_TEMPLATE("project_add_norm_backward: one kernel does the same", P, in_bf16, in_fp16) {
  for (std::size_t const count : {1u, 17u, 63u, 64u, 65u, 128u, 197u}) {
    check_fused<between_case<P::value, 64, 96, 136>>(count);
    check_fused<between_case<P::value, 64, 64, 192>>(count);
  }
  check_fused<between_case<P::value, 128, 192, 200>>(131);
  check_fused<tiny_case<P::value>>(150);
  check_fused<between_case<P::value, 192, 384, 1152>>(130);
}

TEST_CASE("project_add_norm_backward: one kernel's bits are the same in two runs") {
  using F = between_case<cuda::precision::bf16, 64, 96, 136>;
  F f{300}, g{300};
  for (F* each : {&f, &g}) {
    each->forward();
    each->backward(cuda::between_backward_choice::fused);
  }
  CHECK(g.dresidual_out.read() == f.dresidual_out.read());
  CHECK(g.dg_out.read() == f.dg_out.read());
  CHECK(g.in.dw_out.read() == f.in.dw_out.read());
  CHECK(g.out.dw_out.read() == f.out.dw_out.read());
  CHECK(g.dnorm_out.read() == f.dnorm_out.read());
}

TEST_CASE_TEMPLATE("project_add_norm_backward: at Tiny's sizes and many rows [long]", P, DM2_PRECISIONS) {
  for (std::size_t const count : {785u, 3137u}) {
    check_between<tiny_case<P::value>>(count);
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
  auto const between = [](half_case& f) { f.backward(); };
  auto const end = [](half_case& f) { f.backward_end(); };
  auto const start = [](half_case& f) { f.backward_start(); };
  using T = __nv_bfloat16;
  CHECK(refused([](half_case& f) { f.g_in = device_array<T>{3 * 96}; }, between) ==
        "project_add_norm_project_backward.g rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dg_out = device_array<T>{3 * 96}; }, between) ==
        "project_add_norm_project_backward.dg rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dy_in = device_array<T>{3 * 40}; }, start) ==
        "norm_project_backward.dy rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dresidual_out = device_array<float>{5 * 64}; }, start) ==
        "norm_project_backward.dresidual rows: got 5, expected 4");
  CHECK(refused([](half_case& f) { f.dend_in = device_array<T>{3 * 64}; }, end) ==
        "project_add_norm_backward.dy rows: got 3, expected 4");
  CHECK(refused([](half_case& f) { f.dresidual_out = device_array<float>{5 * 64}; }, end) ==
        "project_add_norm_backward.dresidual rows: got 5, expected 4");
}
