#include <dm2/cuda/attention_core/general.cuh>

#include <doctest/doctest.h>

#include "cpu/attention_case.hpp"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// An attention_case whose numbers the device can hold, and their copies there.
template <cuda::precision P, attention_shape A>
struct general_case {
  using T = cuda::element<P>;
  attention_case<A> host;
  cuda::context<P> ctx;
  device_array<T> qkv, y;
  device_array<float> conv, bias;

  general_case(int sequences, int tokens) : host{sequences, tokens, 2} {
    host.qkv = rounded<T>(host.qkv);
    host.conv = rounded<float>(host.conv);
    host.bias = rounded<float>(host.bias);
    upload();
  }
  void upload() {
    qkv = device_array<T>{host.qkv};
    y = device_array<T>{host.y.size()};
    conv = device_array<float>{host.conv};
    bias = device_array<float>{host.bias};
  }
  [[nodiscard]] attention_parameters<A, float const, space::device> parameters() const {
    if constexpr (A.d_conv == 0)
      return {};
    else
      return {conv.template as_block<3 * A.width(), 1, A.d_conv>(), bias.template as_block<3 * A.width()>()};
  }
  void forward() {
    cuda::detail::attention_core::launch_general<A>(ctx, qkv.template as_rows<3 * A.width()>(), parameters(),
                                                    y.template as_rows<A.width()>(), host.length);
  }
  /// A rounding of q and k moves each score by some of its size, before exp.
  void check() {
    CAPTURE(host.length);
    forward();
    host.forward();
    CHECK(relative_error(y.read(), host.y) < 4 * product_tolerance<P>);
    CHECK(y.margins_untouched());
  }
};

constexpr attention_shape tiny_attention{.heads = 3, .head_dim = 96, .rotary = 48, .d_conv = 4};
/// The widest heads of TF32's tiles, and heads that are float's in any precision.
constexpr attention_shape widest_attention{.heads = 1, .head_dim = 128, .rotary = 64, .d_conv = 3};
constexpr attention_shape wider_attention{.heads = 1, .head_dim = 132, .rotary = 4, .d_conv = 2};

}  // namespace

TEST_CASE_TEMPLATE("attention_core_general: equals the CPU's in double, at lengths around the tile's", P, in_bf16,
                   in_fp16, in_fp32, in_tf32) {
  for (int const length : {1, 2, 17, 63, 64, 65, 128, 197}) {
    general_case<P::value, plain_attention>{2, length}.check();
    general_case<P::value, partly_turned>{2, length}.check();
    general_case<P::value, fully_turned>{3, length}.check();
  }
  general_case<P::value, tiny_attention>{1, 197}.check();
  general_case<P::value, tiny_attention>{1, 65}.check();
  general_case<P::value, widest_attention>{1, 65}.check();
  general_case<P::value, wider_attention>{1, 65}.check();
  general_case<P::value, partly_turned>{1, 785}.check();
  general_case<P::value, plain_attention>{1, 3137}.check();
}

TEST_CASE("attention_core_general: scores of any size do not overflow") {
  general_case<cuda::precision::fp32, plain_attention> f{1, 65};
  for (double& v : f.host.qkv) v = double(float(v * 1e4));
  f.upload();
  f.check();
}

TEST_CASE("attention_core_general: two runs give the same bits, and a plan takes the memory of both") {
  general_case<cuda::precision::bf16, partly_turned> f{2, 197};
  f.ctx.plan([&] { f.forward(); });
  for (double v : f.y.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes();
  f.forward();
  auto const once = f.y.read();
  f.forward();
  CHECK(f.y.read() == once);
  CHECK(f.ctx.scratch_bytes() == bytes);
}

TEST_CASE("attention_core_general: rows that disagree are refused by name, and nothing is written") {
  general_case<cuda::precision::fp32, partly_turned> f{2, 7};
  f.host.length = 5;
  CHECK(shape_message([&] { f.forward(); }) == "attention_core.qkv: got 14 rows, expected a multiple of the length 5");
  f.host.length = 7;
  for (double v : f.y.read()) CHECK(v != v);
  f.y = device_array<float>{13 * 21};
  CHECK(shape_message([&] { f.forward(); }) == "attention_core.y rows: got 13, expected 14");
  for (double v : f.y.read()) CHECK(v != v);
}
