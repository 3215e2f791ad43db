#include <dm2/cuda/linear.cuh>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <cuda::precision P, class U, int K, int N>
struct linear_case {
  using T = cuda::element<P>;
  cuda::context<P> ctx;
  random_source random{3};
  std::vector<double> x, w, bias;
  device_array<T> dx, dw;
  device_array<float> dbias;
  device_array<U> y;

  explicit linear_case(std::size_t count)
      : x{rounded<T>(random.normal(count * K))},
        w{rounded<T>(random.normal(std::size_t{N} * K))},
        bias{rounded<float>(random.normal(N))},
        dx{x},
        dw{w},
        dbias{bias},
        y{count * N} {}

  [[nodiscard]] block<T const, space::device, N, K> weight() const { return dw.template as_block<N, K>(); }
  void forward() {
    cuda::linear(ctx, dx.template as_rows<K>(), weight(), dbias.template as_block<N>(), y.template as_rows<N>());
  }
};

template <cuda::precision P, class U, int K, int N>
void check_linear(std::size_t count) {
  CAPTURE(count);
  double const tolerance = std::max(product_tolerance<P>, rounding_tolerance<U>);
  linear_case<P, U, K, N> f{count};
  f.forward();
  CHECK(relative_error(f.y.read(), naive::linear(f.x, f.w, f.bias, K, N)) < tolerance);
  f.y = device_array<U>{count * N};
  cuda::linear(f.ctx, f.dx.template as_rows<K>(), f.weight(), {}, f.y.template as_rows<N>());
  CHECK(relative_error(f.y.read(), naive::linear(f.x, f.w, {}, K, N)) < tolerance);
  CHECK(f.y.margins_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("linear: equals the sum over input channels, with and without bias", P, DM2_PRECISIONS) {
  for (std::size_t const count : {1u, 17u, 63u, 64u, 65u, 197u}) {
    check_linear<P::value, cuda::element<P::value>, 96, 288>(count);
    check_linear<P::value, float, 96, 100>(count);
    check_linear<P::value, cuda::element<P::value>, 5, 7>(count);
    check_linear<P::value, float, 33, 3>(count);
  }
}

TEST_CASE("linear: of no rows writes nothing") {
  linear_case<cuda::precision::bf16, float, 8, 8> f{0};
  f.forward();
  CHECK(f.y.margins_untouched());
}

TEST_CASE("linear: row counts that differ are refused by name, and nothing is written") {
  linear_case<cuda::precision::bf16, float, 8, 8> f{4};
  f.y = device_array<float>{3 * 8};
  CHECK(shape_message([&] { f.forward(); }) == "linear.y rows: got 3, expected 4");
  for (double v : f.y.read()) CHECK(v != v);
}
