#include <dm2/cpu/rms_norm.hpp>
#include <dm2/cuda/rms_norm.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// G: the type of dy.
template <cuda::precision Precision, class G, int Width>
struct gradient_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int C = Width;
  std::size_t count;
  cuda::context<P> ctx;
  random_source random{11};
  std::vector<double> x, w, rstd, dy, dx_before, dw_before;
  device_array<float> x_in, w_in, rstd_in, dx, dw;
  device_array<G> dy_in;

  explicit gradient_case(std::size_t rows_in)
      : count{rows_in},
        x{rounded<float>(random.normal(count * C, 0.1))},
        w{rounded<float>(random.normal(C))},
        rstd{rounded<float>(random.uniform(count, 5, 20))},
        dy{rounded<G>(random.normal(count * C))},
        dx_before{rounded<float>(random.normal(count * C))},
        dw_before{rounded<float>(random.normal(C))},
        x_in{x},
        w_in{w},
        rstd_in{rstd},
        dx{dx_before},
        dw{dw_before},
        dy_in{dy} {}

  void backward() {
    block<float const, space::device, C> const weight = w_in.template as_block<C>();
    cuda::rms_norm_backward(ctx, x_in.template as_rows<C>(), weight, rstd_in.data(), dy_in.template as_rows<C>(),
                            dx.template as_rows<C>(), dw.template as_block<C>());
  }
};

template <class F>
void check_gradient(std::size_t count) {
  CAPTURE(count);
  CAPTURE(F::C);
  F f{count};
  f.backward();
  auto dx = f.dx_before, dw = f.dw_before;
  cpu::context<double> host{1};
  cpu::rms_norm_backward(host, as_rows<F::C>(std::as_const(f.x)), as_block<F::C>(std::as_const(f.w)), f.rstd.data(),
                         as_rows<F::C>(std::as_const(f.dy)), as_rows<F::C>(dx), as_block<F::C>(dw));
  CHECK(relative_error(f.dx.read(), dx) < 1e-6);  // dy is exact, and all else is float
  CHECK(relative_error(f.dw.read(), dw) < 2e-6);
  CHECK((f.dx.margins_untouched() && f.dw.margins_untouched()));
}

template <int C>
using half_case = gradient_case<cuda::precision::bf16, __nv_bfloat16, C>;
template <int C>
using float_case = gradient_case<cuda::precision::fp32, float, C>;

}  // namespace

TEST_CASE_TEMPLATE("rms_norm_backward: equals the CPU's at any number of rows and any width", P, in_bf16, in_fp16,
                   in_fp32) {
  using T = cuda::element<P::value>;
  for (std::size_t const count : {1u, 7u, 17u, 63u, 64u, 65u, 197u}) {
    check_gradient<gradient_case<P::value, T, 1>>(count);
    check_gradient<gradient_case<P::value, T, 7>>(count);
    check_gradient<gradient_case<P::value, T, 192>>(count);
    check_gradient<gradient_case<P::value, T, 384>>(count);
    check_gradient<gradient_case<P::value, float, 192>>(count);
    check_gradient<gradient_case<P::value, T, 33>>(count);
  }
}

TEST_CASE("rms_norm_backward: rows that no registers hold, and that shared memory holds one of") {
  check_gradient<half_case<3000>>(9);
  check_gradient<half_case<3200>>(17);
  check_gradient<float_case<16000>>(5);
}

TEST_CASE("rms_norm_backward: more rows than blocks have warps") {
  check_gradient<half_case<32>>(5000);
  check_gradient<float_case<530>>(4300);
}

TEST_CASE("rms_norm_backward: rows that no packet starts at") {
  float_case<128> f{3}, g{3};
  f.backward();
  device_array<float> dy{3 * 128 + 1};
  cuda::check(cudaMemcpy(dy.data() + 1, f.dy_in.data(), 3 * 128 * sizeof(float), cudaMemcpyDeviceToDevice), "copy");
  block<float const, space::device, 128> const weight = g.w_in.as_block<128>();
  cuda::rms_norm_backward(g.ctx, g.x_in.as_rows<128>(), weight, g.rstd_in.data(),
                          rows<float, 128, space::device>{dy.data() + 1, 3}, g.dx.as_rows<128>(), g.dw.as_block<128>());
  CHECK(relative_error(g.dx.read(), f.dx.read()) < 1e-6);
  CHECK(relative_error(g.dw.read(), f.dw.read()) < 1e-6);
}

TEST_CASE("rms_norm_backward: two runs give the same bits, a plan writes nothing and takes a run's memory") {
  half_case<192> f{197}, g{197};
  f.ctx.plan([&] { f.backward(); });
  CHECK(f.dx.read() == f.dx_before);
  CHECK(f.dw.read() == f.dw_before);
  std::size_t const bytes = f.ctx.scratch_bytes();
  f.backward();
  CHECK(f.ctx.scratch_bytes() == bytes);
  g.backward();
  CHECK(g.dx.read() == f.dx.read());
  CHECK(g.dw.read() == f.dw.read());
  half_case<192> none{0};
  none.backward();
  CHECK(none.dw.read() == none.dw_before);
}

TEST_CASE("rms_norm_backward: row counts that differ are refused by name, and nothing is written") {
  half_case<7> f{4};
  f.dy_in = device_array<__nv_bfloat16>{3 * 7};
  CHECK(shape_message([&] { f.backward(); }) == "rms_norm_backward.dy rows: got 3, expected 4");
  f.dy_in = device_array<__nv_bfloat16>{f.dy};
  f.dx = device_array<float>{5 * 7};
  CHECK(shape_message([&] { f.backward(); }) == "rms_norm_backward.dx rows: got 5, expected 4");
  CHECK(f.dw.read() == f.dw_before);
  for (double v : f.dx.read()) CHECK(v != v);
}
