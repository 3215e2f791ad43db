#include <dm2/cuda/gated_activation.cuh>

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

template <cuda::precision P, int C>
void check_gate(std::size_t count) {
  using T = cuda::element<P>;
  CAPTURE(count);
  random_source random{5};
  auto const input = rounded<T>(random.normal(count * 2 * C, 3));
  std::vector<double> want;
  for (std::size_t r = 0; r < count; ++r)
    for (std::size_t c = 0; c < C; ++c) want.push_back(input[r * 2 * C + c] * naive::silu(input[r * 2 * C + C + c]));
  device_array<T> const x{input};
  device_array<T> y{count * C};
  cuda::context<P> ctx;
  cuda::gated_activation(ctx, x.template as_rows<2 * C>(), y.template as_rows<C>());
  CHECK(relative_error(y.read(), want) < rounding_tolerance<T>);
  CHECK(y.margins_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("gated_activation: equals its formula, in whole packets and in single numbers", P, in_bf16, in_fp16,
                   in_fp32) {
  for (std::size_t const count : {1u, 17u, 197u, 785u}) {
    check_gate<P::value, 1>(count);
    check_gate<P::value, 5>(count);
    check_gate<P::value, 96>(count);
  }
}

TEST_CASE("gated_activation: row counts that differ are refused by name, and nothing is written") {
  cuda::context<cuda::precision::fp32> ctx;
  device_array<float> const x{std::vector<double>(4 * 6, 1)};
  device_array<float> y{3 * 3};
  CHECK(shape_message([&] { cuda::gated_activation(ctx, x.as_rows<6>(), y.as_rows<3>()); }) ==
        "gated_activation.y rows: got 3, expected 4");
  for (double v : y.read()) CHECK(v != v);
}
