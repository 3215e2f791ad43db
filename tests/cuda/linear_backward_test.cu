#include <dm2/cpu/linear.hpp>
#include <dm2/cuda/linear.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// G: the type of dy; U: that of dx.
template <cuda::precision Precision, class G, class U, int In, int Out>
struct gradient_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int K = In, N = Out;
  using T = cuda::element<P>;
  std::size_t count;
  cuda::context<P> ctx;
  random_source random{3};
  std::vector<double> x, w, dy, weight_before, bias_before;
  device_array<T> x_in, w_in;
  device_array<G> dy_in;
  device_array<U> dx;
  device_array<float> dw, db;

  explicit gradient_case(std::size_t rows_in)
      : count{rows_in},
        x{rounded<T>(random.normal(count * K))},
        w{rounded<T>(random.normal(std::size_t{N} * K))},
        dy{rounded<G>(random.normal(count * N))},
        weight_before{rounded<float>(random.normal(std::size_t{N} * K))},
        bias_before{rounded<float>(random.normal(N))},
        x_in{x},
        w_in{w},
        dy_in{dy},
        dx{count * K},
        dw{weight_before},
        db{bias_before} {}

  [[nodiscard]] block<T const, space::device, N, K> weight() const { return w_in.template as_block<N, K>(); }
  void backward() {
    cuda::linear_backward(ctx, x_in.template as_rows<K>(), weight(), dy_in.template as_rows<N>(),
                          dx.template as_rows<K>(), dw.template as_block<N, K>(), db.template as_block<N>());
  }
  void backward_of_parameters() {
    cuda::linear_backward(ctx, x_in.template as_rows<K>(), weight(), dy_in.template as_rows<N>(),
                          rows<U, K, space::device>{}, dw.template as_block<N, K>(), {});
  }
};

template <class F>
void check_gradient(std::size_t count) {
  CAPTURE(count);
  F f{count};
  f.backward();
  auto want = poisoned(f.dx.size()), dw = f.weight_before, db = f.bias_before;
  cpu::context<double> host{1};
  cpu::linear_backward(host, as_rows<F::K>(f.x), as_block<F::N, F::K>(std::as_const(f.w)), as_rows<F::N>(f.dy),
                       as_rows<F::K>(want), as_block<F::N, F::K>(dw), as_block<F::N>(db));
  // Operands are exact and sums are float, but where dy is rounded first, and for TF32.
  using G = std::remove_cvref_t<decltype(*f.dy_in.data())>;
  double const sums = F::P == cuda::precision::tf32      ? 1e-3
                      : std::is_same_v<G, typename F::T> ? 3e-6
                                                         : rounding_tolerance<typename F::T>;
  double const result = std::max(sums, rounding_tolerance<std::remove_cvref_t<decltype(*f.dx.data())>>);
  CHECK(relative_error(f.dx.read(), want) < result);
  CHECK(relative_error(f.dw.read(), dw) < sums);
  CHECK(relative_error(f.db.read(), db) < 1e-6);
  CHECK((f.dx.margins_untouched() && f.dw.margins_untouched() && f.db.margins_untouched()));
}

using half_case = gradient_case<cuda::precision::bf16, __nv_bfloat16, __nv_bfloat16, 24, 40>;

}  // namespace

TEST_CASE_TEMPLATE("linear_backward: equals the CPU's", P, DM2_PRECISIONS) {
  using T = cuda::element<P::value>;
  for (std::size_t const count : {1u, 17u, 63u, 64u, 65u, 197u}) {
    check_gradient<gradient_case<P::value, T, T, 96, 72>>(count);
    check_gradient<gradient_case<P::value, T, float, 40, 136>>(count);
    check_gradient<gradient_case<P::value, float, T, 8, 1000>>(count);
    check_gradient<gradient_case<P::value, T, T, 5, 7>>(count);
    check_gradient<gradient_case<P::value, float, float, 33, 3>>(count);
  }
}

TEST_CASE("linear_backward: sums of more rows than there are parts") {
  check_gradient<gradient_case<cuda::precision::bf16, __nv_bfloat16, __nv_bfloat16, 1, 2>>(40000);
  check_gradient<gradient_case<cuda::precision::fp32, float, float, 1, 4>>(20001);
}

TEST_CASE("linear_backward: dx and db may be views of nothing, and two runs give the same bits") {
  half_case f{197}, g{197};
  f.backward();
  g.backward_of_parameters();
  CHECK(g.dw.read() == f.dw.read());
  for (double v : g.dx.read()) REQUIRE(v != v);
  CHECK(g.db.read() == g.bias_before);
  half_case h{197};
  h.backward();
  CHECK(h.dx.read() == f.dx.read());
  CHECK(h.dw.read() == f.dw.read());
  CHECK(h.db.read() == f.db.read());
}

TEST_CASE("linear_backward: numbers that no packet starts at") {
  half_case f{17}, g{17};
  f.backward();
  device_array<__nv_bfloat16> dy{17 * 40 + 1};
  cuda::check(cudaMemcpy(dy.data() + 1, f.dy_in.data(), 17 * 40 * sizeof(__nv_bfloat16), cudaMemcpyDeviceToDevice),
              "copy");
  cuda::linear_backward(g.ctx, g.x_in.as_rows<24>(), g.weight(),
                        rows<__nv_bfloat16, 40, space::device>{dy.data() + 1, 17}, g.dx.as_rows<24>(),
                        g.dw.as_block<40, 24>(), g.db.as_block<40>());
  CHECK(relative_error(g.dx.read(), f.dx.read()) < rounding_tolerance<__nv_bfloat16>);
  CHECK(relative_error(g.dw.read(), f.dw.read()) < 1e-6);
  CHECK(relative_error(g.db.read(), f.db.read()) < 1e-6);
}

TEST_CASE("linear_backward: a plan takes the memory that a run needs, and of no rows nothing is written") {
  gradient_case<cuda::precision::bf16, float, __nv_bfloat16, 24, 40> f{197};
  f.ctx.plan([&] { f.backward(); });
  for (double v : f.dx.read()) REQUIRE(v != v);
  CHECK(f.dw.read() == f.weight_before);
  std::size_t const bytes = f.ctx.scratch_bytes(), plans = f.ctx.products().size();
  f.backward();
  CHECK(f.ctx.scratch_bytes() == bytes);
  CHECK(f.ctx.products().size() == plans);
  half_case none{0};
  none.backward();
  CHECK(none.dw.read() == none.weight_before);
  CHECK(none.db.read() == none.bias_before);
}

TEST_CASE("linear_backward: row counts that differ are refused by name, and nothing is written") {
  half_case f{4};
  f.dx = device_array<__nv_bfloat16>{3 * 24};
  CHECK(shape_message([&] { f.backward(); }) == "linear_backward.dx rows: got 3, expected 4");
  f.dy_in = device_array<__nv_bfloat16>{5 * 40};
  CHECK(shape_message([&] { f.backward(); }) == "linear_backward.dy rows: got 5, expected 4");
  CHECK(f.dw.read() == f.weight_before);
  for (double v : f.dx.read()) CHECK(v != v);
}
