#include <dm2/cuda/project_add_norm/general.cuh>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr double eps = 1e-3;

template <cuda::precision Precision, int Width, int Inner, int Wide>
struct project_add_norm_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int D = Width, K = Inner, N = Wide;
  using T = cuda::element<P>;
  std::size_t count;
  cuda::context<P> ctx;
  random_source random{107};
  std::vector<double> g, before, out_w, out_b, norm, in_w, in_b;
  device_array<T> dg, dout_w, din_w, y, end;
  device_array<float> dbefore, dout_b, dnorm, din_b, after, rstd;

  explicit project_add_norm_case(std::size_t rows_in)
      : count{rows_in},
        g{rounded<T>(random.normal(count * K))},
        before{rounded<float>(random.normal(count * D))},
        out_w{rounded<T>(random.normal(D * K, 0.1))},
        out_b{rounded<float>(random.normal(D))},
        norm{rounded<float>(random.normal(D))},
        in_w{rounded<T>(random.normal(N * D))},
        in_b{rounded<float>(random.normal(N))},
        dg{g},
        dout_w{out_w},
        din_w{in_w},
        y{count * N},
        end{count * D},
        dbefore{before},
        dout_b{out_b},
        dnorm{norm},
        din_b{in_b},
        after{count * D},
        rstd{count} {}

  [[nodiscard]] linear_parameters<float const, D, K, space::device, T const> out() const {
    return {dout_w.template as_block<D, K>(), dout_b.template as_block<D>()};
  }
  [[nodiscard]] norm_projection<float const, N, D, space::device, T const> in() const {
    return {dnorm.template as_block<D>(), {din_w.template as_block<N, D>(), din_b.template as_block<N>()}};
  }
  void forward() {
    cuda::detail::project_add_norm::project_add_norm_project_general(
        ctx, dg.template as_rows<K>(), out(), dbefore.template as_rows<D>(),
        norm_point<float, D, space::device>{after.template as_rows<D>(), rstd.data()}, in(), eps,
        y.template as_rows<N>());
  }
  void forward_end() {
    block<float const, space::device, D> const weight = dnorm.template as_block<D>();
    cuda::detail::project_add_norm::project_add_norm_general(
        ctx, dg.template as_rows<K>(), out(), dbefore.template as_rows<D>(),
        norm_point<float, D, space::device>{after.template as_rows<D>(), nullptr}, weight, eps,
        end.template as_rows<D>());
  }
  [[nodiscard]] std::vector<double> sum() const {
    auto x = naive::linear(g, out_w, out_b, K, D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += before[i];
    return x;
  }
};

template <class F>
void check_forward(std::size_t count) {
  CAPTURE(count);
  F f{count};
  f.forward();
  // the sum is float; its products are exact but for TF32's rounding
  double const sums = F::P == cuda::precision::tf32 ? 1e-3 : 2e-6, tolerance = product_tolerance<F::P>;
  CHECK(relative_error(f.after.read(), f.sum()) < sums);
  auto const normed = naive::rms_norm(f.sum(), f.norm, eps);
  CHECK(relative_error(f.y.read(), naive::linear(normed, f.in_w, f.in_b, F::D, F::N)) < tolerance);
  f.after = device_array<float>{count * F::D};
  f.forward_end();
  CHECK(relative_error(f.after.read(), f.sum()) < sums);
  CHECK(relative_error(f.end.read(), normed) < tolerance);
  CHECK((f.after.margins_untouched() && f.y.margins_untouched() && f.end.margins_untouched()));
}

}  // namespace

TEST_CASE_TEMPLATE("project_add_norm_general: is projection, addition, norm and projection, one after another", P,
                   DM2_PRECISIONS) {
  for (std::size_t const count : {1u, 17u, 64u, 65u, 197u}) {
    check_forward<project_add_norm_case<P::value, 192, 96, 40>>(count);
    check_forward<project_add_norm_case<P::value, 5, 7, 3>>(count);
  }
}

TEST_CASE("project_add_norm_general: two runs give the same bits, and the residual may be updated in place") {
  using F = project_add_norm_case<cuda::precision::bf16, 192, 96, 40>;
  F f{17}, g{17}, h{17};
  f.forward();
  h.forward();
  CHECK(h.y.read() == f.y.read());
  auto const residual = g.dbefore.as_rows<F::D>();
  cuda::detail::project_add_norm::project_add_norm_project_general(
      g.ctx, g.dg.as_rows<F::K>(), g.out(), residual, norm_point<float, F::D, space::device>{residual, nullptr}, g.in(),
      eps, g.y.as_rows<F::N>());
  // The library may add in another order where the addend is the result.
  CHECK(relative_error(g.dbefore.read(), f.after.read()) < 1e-6);
  CHECK(relative_error(g.y.read(), f.y.read()) < 2e-3);
}

TEST_CASE("project_add_norm_general: a plan takes the memory that a run needs") {
  using F = project_add_norm_case<cuda::precision::bf16, 192, 96, 40>;
  F f{197};
  f.ctx.plan([&] { f.forward(); });
  for (double v : f.after.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes(), plans = f.ctx.products().size();
  CHECK(bytes > 0);
  f.forward();
  CHECK(f.ctx.scratch_bytes() == bytes);
  CHECK(f.ctx.products().size() == plans);
}

TEST_CASE("project_add_norm_general: row counts that differ are refused by name") {
  project_add_norm_case<cuda::precision::fp32, 5, 7, 3> f{4};
  f.dbefore = device_array<float>{3 * 5};
  CHECK(shape_message([&] { f.forward(); }) == "project_add.before rows: got 3, expected 4");
  f.dbefore = device_array<float>{f.before};
  f.after = device_array<float>{5 * 5};
  CHECK(shape_message([&] { f.forward(); }) == "project_add.after rows: got 5, expected 4");
  f.after = device_array<float>{4 * 5};
  f.y = device_array<float>{3 * 3};
  CHECK(shape_message([&] { f.forward(); }) == "norm_project.y rows: got 3, expected 4");
  for (double v : f.y.read()) CHECK(v != v);
}
