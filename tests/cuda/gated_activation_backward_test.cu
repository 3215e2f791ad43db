#include <dm2/cpu/gated_activation.hpp>
#include <dm2/cuda/gated_activation.cuh>

#include <doctest/doctest.h>

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
struct gate_case {
  using T = cuda::element<P>;
  std::vector<double> input, dy;
  device_array<T> x, g, dx;
  cuda::context<P> ctx;

  explicit gate_case(std::size_t count, double scale = 3) {
    random_source random{5};
    input = rounded<T>(random.normal(count * 2 * C, scale));
    dy = rounded<T>(random.normal(count * C));
    x = device_array<T>{input};
    g = device_array<T>{dy};
    dx = device_array<T>{input.size()};
  }
  void backward(device_array<T> const& to) {
    cuda::gated_activation_backward(ctx, x.template as_rows<2 * C>(),
                                    rows<T const, C, space::device>{g.template as_rows<C>()},
                                    to.template as_rows<2 * C>());
  }
  [[nodiscard]] std::vector<double> oracle() const {
    cpu::context<double> host{1};
    std::vector<double> want = poisoned(input.size());
    cpu::gated_activation_backward(host, as_rows<2 * C>(input), as_rows<C>(dy), as_rows<2 * C>(want));
    return want;
  }
  void check() {
    CAPTURE(C);
    CAPTURE(x.size());
    backward(dx);
    CHECK(relative_error(dx.read(), oracle()) < rounding_tolerance<T>);
    CHECK(dx.margins_untouched());
  }
};

}  // namespace

TEST_CASE_TEMPLATE("gated_activation_backward: equals the CPU's in double, in whole packets and in single numbers", P,
                   in_bf16, in_fp16, in_fp32) {
  for (std::size_t const count : {1u, 17u, 197u}) {
    gate_case<P::value, 1>{count}.check();
    gate_case<P::value, 5>{count}.check();
    gate_case<P::value, 96>{count}.check();
  }
}

TEST_CASE_TEMPLATE("gated_activation_backward: gates of any size give finite gradients", P, in_bf16, in_fp32) {
  gate_case<P::value, 16>{64, 200}.check();
}

TEST_CASE("gated_activation_backward: rows that do not start at 16 bytes") {
  gate_case<cuda::precision::bf16, 8> f{9};
  auto const want = f.oracle();
  device_array<__nv_bfloat16> to{std::size_t{8 * 16 + 1}};
  rows<__nv_bfloat16, 16, space::device> const shifted{to.data() + 1, 8};
  cuda::gated_activation_backward(f.ctx, f.x.as_rows<16>().slice(0, 8),
                                  rows<__nv_bfloat16 const, 8, space::device>{f.g.as_rows<8>().slice(0, 8)}, shifted);
  auto got = to.read();
  CHECK(got[0] != got[0]);
  got.erase(got.begin());
  CHECK(relative_error(got, std::vector<double>(want.begin(), want.begin() + 8 * 16)) <
        rounding_tolerance<__nv_bfloat16>);
}

TEST_CASE("gated_activation_backward: the gradient may take the input's place") {
  gate_case<cuda::precision::bf16, 96> f{33};
  f.backward(f.dx);
  f.backward(f.x);
  CHECK(f.x.read() == f.dx.read());
}

TEST_CASE("gated_activation_backward: row counts that differ are refused by name, and nothing is written") {
  gate_case<cuda::precision::fp32, 3> f{4};
  f.dx = device_array<float>{std::size_t{3 * 6}};
  CHECK(shape_message([&] { f.backward(f.dx); }) == "gated_activation_backward.dinput rows: got 3, expected 4");
  f.g = device_array<float>{std::vector<double>(5 * 3, 1)};
  CHECK(shape_message([&] { f.backward(f.dx); }) == "gated_activation_backward.dy rows: got 5, expected 4");
  CHECK(untouched(f.dx.read()));
}
