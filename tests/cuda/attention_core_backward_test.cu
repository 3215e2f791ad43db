#include <dm2/cuda/attention_core_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/attention_core/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <initializer_list>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

template <precision P, attention_shape A>
struct backward_case : device_attention<P, A> {
  using base = device_attention<P, A>;
  using base::base;
  using base::host, base::ctx, base::qkv, base::dy, base::dqkv, base::conv, base::bias, base::width, base::taps;

  // Members, since nvcc 13 loses structures among template arguments outside templates.
  /// The same of activations elsewhere, without parameters.
  void backward_of(cuda::element<P> const* moved) {
    cuda::attention_core_backward(ctx, rows<cuda::element<P> const, 3 * width, space::device>{moved, dy.size() / width},
                                  attention_parameters<A, float const, space::device>{}, dy.template as_rows<width>(),
                                  dqkv.template as_rows<3 * width>(), attention_parameters<A, float, space::device>{},
                                  host.length);
  }
  /// The same with parameters elsewhere.
  void backward_with(float const* far_conv, float const* far_bias) {
    cuda::attention_core_backward(ctx, qkv.template as_rows<3 * width>(),
                                  attention_parameters<A, float const, space::device>{
                                      block<float const, space::device, 3 * width, 1, taps>{far_conv},
                                      block<float const, space::device, 3 * width>{far_bias}},
                                  dy.template as_rows<width>(), dqkv.template as_rows<3 * width>(), this->gradients(),
                                  host.length);
  }
  void backward() {
    attention_parameters<A, float const, space::device> p{};
    if constexpr (taps != 0) p = {conv.template as_block<3 * width, 1, taps>(), bias.template as_block<3 * width>()};
    cuda::attention_core_backward(ctx, qkv.template as_rows<3 * width>(), p, dy.template as_rows<width>(),
                                  dqkv.template as_rows<3 * width>(), this->gradients(), host.length);
  }
  void check(double allowed = base::tolerance) {
    CAPTURE(host.length);
    CAPTURE(A.head_dim);
    backward();
    this->check_gradients(allowed);
  }
};

constexpr attention_shape tiny_attention{.heads = 3, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape one_head{.heads = 1, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape narrow{.heads = 2, .head_dim = 16, .rotary = 16, .d_conv = 3};
constexpr attention_shape plain{.heads = 2, .head_dim = 48, .rotary = 0, .d_conv = 0};
constexpr attention_shape turned{.heads = 1, .head_dim = 32, .rotary = 32, .d_conv = 0};
constexpr attention_shape one_tap{.heads = 1, .head_dim = 80, .rotary = 16, .d_conv = 1};
constexpr attention_shape two_taps{.heads = 1, .head_dim = 64, .rotary = 0, .d_conv = 2};
constexpr attention_shape wide{.heads = 1, .head_dim = 128, .rotary = 64, .d_conv = 4};

template <precision P, attention_shape A>
void check_lengths(std::initializer_list<int> lengths, int sequences = 2) {
  for (int const length : lengths) backward_case<P, A>{sequences, length}.check();
}

}  // namespace

TEST_CASE_TEMPLATE("cuda attention_core_backward: equals the CPU's in double, at lengths around the tile's", P,
                   DM2_PRECISIONS) {
  for (int const length : {1, 2, 17, 63, 64, 65, 128, 197}) {
    backward_case<P::value, plain_attention>{2, length}.check();
    backward_case<P::value, partly_turned>{2, length}.check();
    backward_case<P::value, fully_turned>{3, length}.check();
  }
  backward_case<P::value, tiny_attention>{1, 70}.check();
}

TEST_CASE("cuda attention_core_backward: equals the CPU's in double at Tiny's shape, around every tile's length") {
  check_lengths<precision::bf16, one_head>({1, 2, 3, 4, 15, 16, 17, 64, 65, 80, 81, 197, 208, 209}, 1);
  check_lengths<precision::bf16, tiny_attention>({197});
  check_lengths<precision::fp16, one_head>({17, 80, 197}, 1);
}

TEST_CASE("cuda attention_core_backward: other widths, rotary channels and taps on tensor cores") {
  check_lengths<precision::bf16, narrow>({1, 65, 112, 197});
  check_lengths<precision::bf16, one_tap>({65, 197}, 1);
  check_lengths<precision::bf16, plain>({17, 80, 208});
  check_lengths<precision::fp16, plain>({65, 197});
  check_lengths<precision::fp16, turned>({33, 129});
  check_lengths<precision::fp16, two_taps>({66, 177}, 1);
  check_lengths<precision::fp16, wide>({79, 81}, 1);
}

TEST_CASE("cuda attention_core_backward: softmaxes from flat to peaked") {
  // Rounded q and k move scores of deviation s^2 by 2^-9 of them, and weights by as much.
  for (double const scale : {0.1, 2., 4.})
    backward_case<precision::bf16, one_head>{1, 197, scale}.check(scale < 3 ? 0.06 : 0.25);
}

TEST_CASE("cuda attention_core_backward: activations that do not start at 16 bytes") {
  backward_case<precision::bf16, plain> f{1, 40}, shifted{1, 40};
  f.backward();
  std::vector<double> moved = f.host.qkv;
  moved.insert(moved.begin(), 0);
  device_array<__nv_bfloat16> const qkv{moved};
  shifted.backward_of(qkv.data() + 1);
  CHECK(relative_error(shifted.dqkv.read(), f.dqkv.read()) < 4 * rounding_tolerance<__nv_bfloat16>);
}

TEST_CASE("cuda attention_core_backward: parameters that do not start at 16 bytes give the same bits") {
  backward_case<precision::bf16, narrow> f{2, 40}, g{2, 40};
  std::vector<double> conv = f.host.conv, bias = f.host.bias;
  conv.insert(conv.begin(), 0);
  bias.insert(bias.begin(), 2, 0);
  device_array<float> const far_conv{conv}, far_bias{bias};
  f.backward();
  g.backward_with(far_conv.data() + 1, far_bias.data() + 2);
  CHECK(g.dqkv.read() == f.dqkv.read());
  CHECK(g.dconv.read() == f.dconv.read());
  CHECK(g.dbias.read() == f.dbias.read());
}

TEST_CASE("cuda attention_core_backward: more runs of tokens than there are parts for their sums") {
  constexpr attention_shape small{.heads = 1, .head_dim = 4, .rotary = 2, .d_conv = 3};
  backward_case<precision::fp32, small>{530, 3}.check();
  backward_case<precision::fp32, small>{70, 290}.check();
}

TEST_CASE("cuda attention_core_backward: equals the CPU's in double where the sequence is long [long]") {
  backward_case<precision::fp32, partly_turned>{1, 785}.check();
  backward_case<precision::bf16, tiny_attention>{1, 785}.check();
  backward_case<precision::fp32, plain_attention>{1, 3137}.check();
}

TEST_CASE("cuda attention_core_backward: scores of any size do not overflow") {
  backward_case<precision::fp32, plain_attention>{1, 65, 1e4}.check(1e-3);
}

TEST_CASE_TEMPLATE("cuda attention_core_backward: two runs give the same bits, and a plan takes the memory of both", P,
                   in_bf16, in_fp32) {
  auto const check = [](auto f, auto g) {
    f.ctx.plan([&] { f.backward(); });
    CHECK(untouched(f.dqkv.read()));
    std::size_t const bytes = f.ctx.scratch_bytes();
    f.backward();
    g.backward();
    CHECK(f.dqkv.read() == g.dqkv.read());
    CHECK(f.dconv.read() == g.dconv.read());
    CHECK(f.dbias.read() == g.dbias.read());
    CHECK(f.ctx.scratch_bytes() == bytes);
  };
  for (int const length : {65, 197}) {
    check(backward_case<P::value, partly_turned>{2, length}, backward_case<P::value, partly_turned>{2, length});
    check(backward_case<P::value, one_head>{2, length}, backward_case<P::value, one_head>{2, length});
  }
}

TEST_CASE("cuda attention_core_backward: rows that disagree are refused by name, and nothing is written") {
  backward_case<precision::fp32, partly_turned> f{2, 7};
  f.dqkv = device_array<float>{std::size_t{13 * 63}};
  CHECK(shape_message([&] { f.backward(); }) == "attention_core_backward.dqkv rows: got 13, expected 14");
  f.dy = device_array<float>{std::size_t{15 * 21}};
  CHECK(shape_message([&] { f.backward(); }) == "attention_core_backward.dy rows: got 15, expected 14");
  f.host.length = 4;
  CHECK(shape_message([&] { f.backward(); }) ==
        "attention_core_backward.qkv: got 14 rows, expected a multiple of the length 4");
  CHECK(untouched(f.dqkv.read()));
  CHECK(f.dconv.read() == f.host.dconv);
}
