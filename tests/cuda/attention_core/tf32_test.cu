// The composed attention in TF32: its tiles' products on tensor cores, forward and backward.
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/attention_core/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr attention_shape of_4{.heads = 3, .head_dim = 4, .rotary = 2, .d_conv = 3};
constexpr attention_shape of_20{.heads = 2, .head_dim = 20, .rotary = 8, .d_conv = 4};
constexpr attention_shape of_32{.heads = 2, .head_dim = 32, .rotary = 32, .d_conv = 0};
constexpr attention_shape of_96{.heads = 1, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape of_128{.heads = 1, .head_dim = 128, .rotary = 64, .d_conv = 2};
constexpr attention_shape of_132{.heads = 1, .head_dim = 132, .rotary = 0, .d_conv = 0};

template <attention_shape A, precision P = precision::tf32>
struct both_ways : device_attention<P, A> {
  static constexpr attention_shape shape = A;
  using base = device_attention<P, A>;
  using base::base, base::host, base::ctx, base::qkv, base::dy, base::y, base::dqkv, base::conv, base::bias,
      base::width, base::taps;

  void run() {
    attention_parameters<A, float const, space::device> p{};
    if constexpr (taps != 0) p = {conv.template as_block<3 * width, 1, taps>(), bias.template as_block<3 * width>()};
    cuda::attention_core(ctx, qkv.template as_rows<3 * width>(), p, y.template as_rows<width>(), host.length);
    cuda::attention_core_backward(ctx, qkv.template as_rows<3 * width>(), p, dy.template as_rows<width>(),
                                  dqkv.template as_rows<3 * width>(), this->gradients(), host.length);
  }
  void check(double allowed = base::tolerance) {
    CAPTURE(host.length);
    CAPTURE(A.head_dim);
    run();
    host.forward();
    CHECK(relative_error(y.read(), host.y) < allowed);
    CHECK(y.margins_untouched());
    this->check_gradients(allowed);
  }
};

}  // namespace

TEST_CASE("cuda attention_core in TF32: equals double to its rounding, at lengths around the tiles'") {
  for (int const length : {1, 3, 15, 16, 17, 63, 64, 65, 129, 197}) {
    both_ways<of_4>{2, length}.check();
    both_ways<of_20>{2, length}.check();
    both_ways<of_32>{1, length}.check();
  }
  for (int const length : {1, 65, 197}) both_ways<of_96>{2, length}.check();
  for (int const length : {17, 64}) both_ways<of_128>{1, length}.check();
}

TEST_CASE("cuda attention_core in TF32: wider heads than its tiles take are float's") {
  both_ways<of_132>{1, 65}.check(4 * rounding_tolerance<float>);
}

TEST_CASE("cuda attention_core in TF32: products are rounded, those of fp32 are not") {
  both_ways<of_32> rounded{1, 97};
  both_ways<of_32, precision::fp32> exact{1, 97};
  rounded.run(), exact.run();
  rounded.host.forward();
  CHECK(relative_error(rounded.y.read(), rounded.host.y) > 1e-5);
  CHECK(relative_error(exact.y.read(), rounded.host.y) < 4 * rounding_tolerance<float>);
}

TEST_CASE("cuda attention_core in TF32: softmaxes from flat to peaked, and scores of any size") {
  for (double const scale : {0.1, 2.}) both_ways<of_32>{1, 97, scale}.check(0.02);
  both_ways<of_20> f{1, 65, 1e4};
  f.run();
  for (auto const* v : {&f.y, &f.dqkv})
    for (double x : v->read()) REQUIRE(x - x == 0);
}

TEST_CASE_TEMPLATE("cuda attention_core: a gradient that starts at no 16 bytes gives the same bits", F,
                   both_ways<of_32>, both_ways<of_20, precision::fp32>) {
  F f{1, 70};
  f.run();
  auto const aligned = f.dqkv.read();
  std::vector<double> moved = f.host.dy;
  moved.insert(moved.begin(), 0);
  device_array<float> const dy{moved};
  f.poison();
  attention_parameters<F::shape, float const, space::device> p{};
  if constexpr (F::taps != 0)
    p = {f.conv.template as_block<3 * F::width, 1, F::taps>(), f.bias.template as_block<3 * F::width>()};
  cuda::attention_core_backward(f.ctx, f.qkv.template as_rows<3 * F::width>(), p,
                                {dy.data() + 1, f.dy.read().size() / F::width}, f.dqkv.template as_rows<3 * F::width>(),
                                f.gradients(), f.host.length);
  CHECK(f.dqkv.read() == aligned);
}

TEST_CASE("cuda attention_core in TF32: two runs give the same bits") {
  both_ways<of_20> f{2, 130};
  f.run();
  auto const y = f.y.read(), dqkv = f.dqkv.read(), dconv = f.dconv.read();
  f.poison();
  f.run();
  CHECK(f.y.read() == y);
  CHECK(f.dqkv.read() == dqkv);
  CHECK(f.dconv.read() == dconv);
}
