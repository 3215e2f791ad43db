#include <dm2/cuda/rms_norm.cuh>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
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

constexpr double eps = 1e-3;  // large enough that leaving it out shows

template <cuda::precision P, class U, int C>
struct norm_case {
  std::size_t count;
  cuda::context<P> ctx;
  random_source random{11};
  std::vector<double> x, w;
  device_array<float> dx, dw, rstd;
  device_array<U> y;

  explicit norm_case(std::size_t rows_in)
      : count{rows_in},
        x{rounded<float>(random.normal(count * C, 0.1))},
        w{rounded<float>(random.normal(C))},
        dx{x},
        dw{w},
        rstd{count},
        y{count * C} {}

  [[nodiscard]] rows<float, C, space::device> input() const { return dx.template as_rows<C>(); }
  [[nodiscard]] block<float const, space::device, C> weight() const { return dw.template as_block<C>(); }
  void forward() { cuda::rms_norm(ctx, input(), weight(), eps, y.template as_rows<C>(), rstd.data()); }
};

using narrow_case = norm_case<cuda::precision::fp32, float, 192>;
using wide_case = norm_case<cuda::precision::fp32, float, 3000>;

template <cuda::precision P, class U, int C>
void check_norm(std::size_t count) {
  CAPTURE(count);
  CAPTURE(C);
  norm_case<P, U, C> f{count};
  f.forward();
  CHECK(relative_error(f.y.read(), naive::rms_norm(f.x, f.w, eps)) < rounding_tolerance<U>);
  std::vector<double> want;
  for (std::size_t r = 0; r < count; ++r) {
    double square = 0;
    for (std::size_t c = 0; c < C; ++c) square += f.x[r * C + c] * f.x[r * C + c];
    want.push_back(1 / std::sqrt(square / C + eps));
  }
  CHECK(relative_error(f.rstd.read(), want) < 1e-6);
  CHECK(f.y.margins_untouched());
  CHECK(f.rstd.margins_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("rms_norm: equals its formula at any number of rows and any width", P, in_bf16, in_fp16, in_fp32) {
  using T = cuda::element<P::value>;
  for (std::size_t const count : {1u, 7u, 17u, 63u, 64u, 65u, 197u, 785u}) {
    check_norm<P::value, T, 1>(count);
    check_norm<P::value, T, 7>(count);
    check_norm<P::value, T, 192>(count);
    check_norm<P::value, float, 384>(count);
    check_norm<P::value, T, 33>(count);
  }
  check_norm<P::value, T, 3000>(5);
  check_norm<P::value, T, 3200>(5);
}

TEST_CASE("rms_norm: rows that no packet starts at") {
  norm_case<cuda::precision::fp32, float, 128> f{3};
  device_array<float> x{3 * 128 + 1}, y{3 * 128 + 1};
  cuda::check(cudaMemcpy(x.data() + 1, f.dx.data(), 3 * 128 * sizeof(float), cudaMemcpyDeviceToDevice), "copy");
  f.forward();
  cuda::rms_norm(f.ctx, rows<float const, 128, space::device>{x.data() + 1, 3}, f.weight(), eps,
                 rows<float, 128, space::device>{y.data() + 1, 3}, nullptr);
  auto const got = y.read(), want = f.y.read();
  CHECK(relative_error(std::vector<double>(got.begin() + 1, got.end()), want) < 1e-6);
}

TEST_CASE_TEMPLATE("rms_norm: the output may be the input, and rstd may be left out", F, narrow_case, wide_case) {
  F f{17};
  f.forward();
  cuda::rms_norm(f.ctx, f.input(), f.weight(), eps, f.input(), nullptr);
  CHECK(f.dx.read() == f.y.read());
}

TEST_CASE("rms_norm: row counts that differ are refused by name, and nothing is written") {
  norm_case<cuda::precision::bf16, __nv_bfloat16, 7> f{4};
  f.y = device_array<__nv_bfloat16>{3 * 7};
  CHECK(shape_message([&] { f.forward(); }) == "rms_norm.y rows: got 3, expected 4");
  for (double v : f.y.read()) CHECK(v != v);
  for (double v : f.rstd.read()) CHECK(v != v);
}
