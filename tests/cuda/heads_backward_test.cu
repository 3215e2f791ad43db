#include <dm2/cpu/heads.hpp>
#include <dm2/cuda/heads.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// G, A: the types of dcls and daux.
template <cuda::precision Precision, class G, class A, int Classes, int Width>
struct gradient_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int K = Classes, D = Width;
  using T = cuda::element<P>;
  int batch, length;
  cuda::context<P> ctx;
  random_source random{109};
  std::vector<double> x, w, aux_w, dcls, daux, dw, db, daux_w, daux_b;
  device_array<T> x_in, w_in, aux_w_in, dx;
  device_array<G> dcls_in;
  device_array<A> daux_in;
  device_array<float> dw_out, db_out, daux_w_out, daux_b_out;

  gradient_case(int pictures, int tokens)
      : batch{pictures},
        length{tokens},
        x{rounded<T>(random.normal(count() * D))},
        w{rounded<T>(random.normal(K * D))},
        aux_w{rounded<T>(random.normal(K * D))},
        dcls{rounded<G>(random.normal(std::size_t(batch) * K))},
        daux{rounded<A>(random.normal((count() - std::size_t(batch)) * K))},
        dw{rounded<float>(random.normal(K * D))},
        db{rounded<float>(random.normal(K))},
        daux_w{rounded<float>(random.normal(K * D))},
        daux_b{rounded<float>(random.normal(K))},
        x_in{x},
        w_in{w},
        aux_w_in{aux_w},
        dx{x.size()},
        dcls_in{dcls},
        daux_in{daux},
        dw_out{dw},
        db_out{db},
        daux_w_out{daux_w},
        daux_b_out{daux_b} {}

  [[nodiscard]] std::size_t count() const { return std::size_t(batch) * std::size_t(length); }
  void backward() {
    head_parameters<float const, K, D, space::device, T const> const p{{w_in.template as_block<K, D>(), {}},
                                                                       {aux_w_in.template as_block<K, D>(), {}}};
    head_parameters<float, K, D, space::device> const grad{
        {dw_out.template as_block<K, D>(), db_out.template as_block<K>()},
        {daux_w_out.template as_block<K, D>(), daux_b_out.template as_block<K>()}};
    cuda::training_heads_backward(ctx, x_in.template as_rows<D>(), p, dcls_in.template as_rows<K>(),
                                  daux_in.template as_rows<K>(), dx.template as_rows<D>(), grad, length);
  }
  /// The CPU's gradients are added to dw, db, daux_w and daux_b; returns dfeatures.
  std::vector<double> oracle() {
    cpu::context<double> host{1};
    auto want = poisoned(x.size());
    head_parameters<double const, K, D> const p{{as_block<K, D>(std::as_const(w)), {}},
                                                {as_block<K, D>(std::as_const(aux_w)), {}}};
    head_parameters<double, K, D> const grad{{as_block<K, D>(dw), as_block<K>(db)},
                                             {as_block<K, D>(daux_w), as_block<K>(daux_b)}};
    cpu::training_heads_backward(host, as_rows<D>(std::as_const(x)), p, as_rows<K>(std::as_const(dcls)),
                                 as_rows<K>(std::as_const(daux)), as_rows<D>(want), grad, length);
    return want;
  }
};

template <class F>
void check_gradient(int batch, int length) {
  CAPTURE(length);
  F f{batch, length};
  f.backward();
  auto const want = f.oracle();
  // Operands are exact and sums are float, but where a gradient is rounded first, and for TF32.
  using T = typename F::T;
  bool const many = batch * length > 1000;
  auto const sums = [many](auto const& gradient) {
    if (F::P == cuda::precision::tf32) return 1e-3;
    bool const exact = std::is_same_v<std::remove_cvref_t<decltype(*gradient.data())>, T>;
    return exact ? (many ? 1e-5 : 3e-6) : rounding_tolerance<T>;  // a sum of 6,000 rows in float
  };
  double const cls = sums(f.dcls_in), aux = sums(f.daux_in);
  CHECK(relative_error(f.dx.read(), want) < std::max({cls, aux, rounding_tolerance<T>}));
  CHECK(relative_error(f.dw_out.read(), f.dw) < cls);
  CHECK(relative_error(f.daux_w_out.read(), f.daux_w) < aux);
  CHECK(relative_error(f.db_out.read(), f.db) < 2e-6);
  CHECK(relative_error(f.daux_b_out.read(), f.daux_b) < 2e-6);
  CHECK((f.dx.margins_untouched() && f.dw_out.margins_untouched() && f.db_out.margins_untouched() &&
         f.daux_w_out.margins_untouched() && f.daux_b_out.margins_untouched()));
}

using half_case = gradient_case<cuda::precision::bf16, __nv_bfloat16, __nv_bfloat16, 40, 24>;

}  // namespace

TEST_CASE_TEMPLATE("heads_backward: equals the CPU's for no patch, one, an odd number, and many", P, DM2_PRECISIONS) {
  using T = cuda::element<P::value>;
  for (int const length : {1, 2, 3, 17, 64, 65, 197}) {
    check_gradient<gradient_case<P::value, T, T, 40, 48>>(2, length);
    check_gradient<gradient_case<P::value, float, T, 40, 24>>(2, length);
    check_gradient<gradient_case<P::value, T, float, 7, 5>>(3, length);
    check_gradient<gradient_case<P::value, float, float, 7, 5>>(1, length);
  }
}

TEST_CASE("heads_backward: at Tiny's sizes") {
  check_gradient<gradient_case<cuda::precision::bf16, float, __nv_bfloat16, 1000, 192>>(2, 50);
}

TEST_CASE_TEMPLATE("heads_backward: at Tiny's sizes and many patches [long]", P, DM2_PRECISIONS) {
  using T = cuda::element<P::value>;
  for (int const length : {197, 785, 3137}) check_gradient<gradient_case<P::value, float, T, 1000, 192>>(2, length);
}

TEST_CASE("heads_backward: two runs give the same bits, a plan takes a run's memory and writes nothing") {
  half_case f{3, 65}, g{3, 65};
  f.ctx.plan([&] { f.backward(); });
  for (double v : f.dx.read()) REQUIRE(v != v);
  CHECK(f.dw_out.read() == f.dw);
  std::size_t const bytes = f.ctx.scratch_bytes(), plans = f.ctx.products().size();
  f.backward();
  CHECK(f.ctx.scratch_bytes() == bytes);
  CHECK(f.ctx.products().size() == plans);
  g.backward();
  CHECK(g.dx.read() == f.dx.read());
  CHECK(g.dw_out.read() == f.dw_out.read());
  CHECK(g.daux_w_out.read() == f.daux_w_out.read());
  CHECK(g.daux_b_out.read() == f.daux_b_out.read());
}

TEST_CASE("heads_backward: rows that disagree are refused by name, and nothing is written") {
  half_case f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.backward(); }) ==
        "training_heads_backward.features: got 14 rows, expected a multiple of the length 5");
  f.length = 7;
  f.dx = device_array<__nv_bfloat16>{13 * 24};
  CHECK(shape_message([&] { f.backward(); }) == "training_heads_backward.dfeatures rows: got 13, expected 14");
  f.daux_in = device_array<__nv_bfloat16>{11 * 40};
  CHECK(shape_message([&] { f.backward(); }) == "training_heads_backward.daux rows: got 11, expected 12");
  f.dcls_in = device_array<__nv_bfloat16>{40};
  CHECK(shape_message([&] { f.backward(); }) == "training_heads_backward.dcls rows: got 1, expected 2");
  for (double v : f.dx.read()) CHECK(v != v);
  CHECK(f.dw_out.read() == f.dw);
}
