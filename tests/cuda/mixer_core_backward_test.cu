#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>

#include <doctest/doctest.h>

#include "cpu/mixer_case.hpp"
#include "cuda/mixer_core/backward_case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// More states than a block's product has columns; more channels; a group that no warp holds; wide enough for accesses
/// of two and of four channels.
constexpr mixer_shape many_states{.heads = 2, .headdim = 5, .d_state = 131, .groups = 1, .d_conv = 4};
constexpr mixer_shape many_channels{
    .heads = 1, .headdim = 301, .d_state = 3, .groups = 1, .d_conv = 1, .variant = mixer_variant::bidirectional};
constexpr mixer_shape wide_group{.heads = 3, .headdim = 701, .d_state = 2, .groups = 1, .d_conv = 5};
constexpr mixer_shape pairs{.heads = 2, .headdim = 6, .d_state = 10, .groups = 2, .d_conv = 3};
constexpr mixer_shape fours{
    .heads = 4, .headdim = 12, .d_state = 8, .groups = 2, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape least{.heads = 4, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4};
constexpr mixer_shape tiny_mixer{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape turned{
    .heads = 4, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape padded{.heads = 8, .headdim = 24, .d_state = 32, .groups = 1, .d_conv = 4};
constexpr mixer_shape small_mixer{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};

}  // namespace

TEST_CASE("cuda mixer_core_backward: equals the CPU's in double, at lengths around those of its parts") {
  constexpr auto fp32 = cuda::precision::fp32;
  for (int const length : {1, 2, 15, 16, 17, 63, 64, 65, 197}) {
    backward_mixer<fp32, published_mixer>{2, length}.check();
    backward_mixer<fp32, plain_mixer>{3, length}.check();
    backward_mixer<fp32, bidirectional_mixer>{2, length}.check();
    backward_mixer<fp32, pairs>{1, length}.check();
    backward_mixer<fp32, fours>{2, length}.check();
    backward_mixer<fp32, least>{1, length}.check();
  }
}

TEST_CASE("cuda mixer_core_backward: equals the CPU's for states, heads and groups of any size") {
  constexpr auto fp32 = cuda::precision::fp32;
  backward_mixer<fp32, many_states>{2, 65}.check();
  backward_mixer<fp32, many_channels>{1, 17}.check();
  backward_mixer<fp32, wide_group>{1, 17}.check();
}

TEST_CASE("cuda mixer_core_backward: in TF32 it is near the CPU's in double") {
  // The allowance of fp16, whose mantissa TF32 keeps: few channels of nearly zeros are magnified by the norm.
  constexpr auto tf32 = cuda::precision::tf32;
  for (int const length : {1, 17, 65, 197}) {
    CAPTURE(length);
    backward_mixer<tf32, fours>{2, length}.check(8e-3);
    backward_mixer<tf32, least>{2, length}.check(8e-3);
    backward_mixer<tf32, turned>{1, length}.check(8e-3);
  }
}

TEST_CASE_TEMPLATE("cuda mixer_core_backward: in 16 bits it is near the CPU's in double", P, in_bf16, in_fp16) {
  // Among groups of few channels are some of nearly zeros, whose rounding the norm magnifies.
  constexpr double few = P::value == cuda::precision::bf16 ? 6e-2 : 2.5e-2;
  for (int const length : {1, 17, 63, 64, 65, 197}) {
    backward_mixer<P::value, tiny_mixer>{1, length}.check();
    backward_mixer<P::value, turned>{2, length}.check(few);
    if (length < 197) backward_mixer<P::value, published_mixer>{2, length}.check(2 * few);
  }
}

TEST_CASE("cuda mixer_core_backward: wide accesses, heads of 24 and Small's sizes are near the CPU's in bfloat16") {
  constexpr auto bf16 = cuda::precision::bf16;
  for (int const length : {1, 17, 65}) {
    backward_mixer<bf16, fours>{2, length}.check(6e-2);
    backward_mixer<bf16, least>{2, length}.check(6e-2);
    backward_mixer<bf16, padded>{1, length}.check();
    // Of one token the steps' gradients nearly cancel, since a sequence's scale does not matter to the norm behind it:
    // an H200's are 5.6e-2 from double, the emulation's 2.7e-2.
    backward_mixer<bf16, small_mixer>{1, length}.check(length == 1 ? 9e-2 : 3e-2);
  }
}

TEST_CASE("cuda mixer_core_backward: gates and weights that are zero, or nearly, can be undone") {
  using mixer = backward_mixer<cuda::precision::bf16, turned>;
  constexpr int inner = turned.d_inner(), wide = turned.projected();
  mixer f{2, 33};
  for (std::size_t row = 0; row < f.host.count(); ++row)
    for (std::size_t c = 0; c < inner; c += 5)
      f.host.in[row * wide + c] = std::array{0., -0., 1e-30, -7., -30.}[c / 5 % 5];
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t c = 0; c < inner; c += 3) f.host.p[i][5][c] = std::array{0., -0., 1e-25}[c / 3 % 3];
  f.in = device_array<__nv_bfloat16>{f.host.in};
  for (std::size_t i = 0; i < 2; ++i) f.p[i][5] = device_array<float>{f.host.p[i][5]};
  f.check(6e-2);
  std::vector<double> const got = f.din.read();
  std::vector<double> zeros, want;
  for (std::size_t row = 0; row < f.host.count(); ++row)
    for (std::size_t c = 0; c < inner; ++c)
      if (std::fabs(f.host.in[row * wide + c]) < 1e-20)
        zeros.push_back(got[row * wide + c]), want.push_back(f.host.din[row * wide + c]);
  REQUIRE(zeros.size() > 300);
  CHECK(relative_error(zeros, want) < 6e-2);
  for (std::size_t i = 0; i < 2; ++i) {
    std::vector<double> const norm = f.grad[i][5].read();
    zeros.clear(), want.clear();
    for (std::size_t c = 0; c < inner; c += 3) zeros.push_back(norm[c]), want.push_back(f.host.grad[i][5][c]);
    CHECK(relative_error(zeros, want) < 6e-2);
  }
}

TEST_CASE("cuda mixer_core_backward: long sequences are near the CPU's in double [long]") {
  for (int const length : {785, 3137}) {
    backward_mixer<cuda::precision::bf16, tiny_mixer>{1, length}.check();
    backward_mixer<cuda::precision::fp32, tiny_mixer>{1, length}.check();
    backward_mixer<cuda::precision::fp32, fours>{1, length}.check();
  }
}

TEST_CASE("cuda mixer_core_backward: the convolution's runs have every token once, and no part is without one") {
  using plan = cuda::detail::mixer_core::backward_plan<tiny_mixer, __nv_bfloat16>;
  cuda::context<> ctx;
  for (int const sequences : {1, 2, 3, 64, 131, 256, 264})
    for (int const length : {1, 15, 16, 17, 31, 32, 33, 197, 3137}) {
      CAPTURE(sequences);
      CAPTURE(length);
      plan const p{sequences, length, ctx.device()};
      CHECK(p.runs * p.run >= length);
      CHECK((p.runs - 1) * p.run < length);
      CHECK((p.runs == 1 || p.run >= 16));
      int const units = sequences * p.runs, each = (units + p.conv_parts - 1) / p.conv_parts;
      CHECK(p.conv_parts <= plan::most_conv_parts);
      CHECK((p.conv_parts - 1) * each < units);
    }
}

TEST_CASE("cuda mixer_core_backward: the input's gradient is overwritten, the parameters' accumulate") {
  backward_mixer<cuda::precision::fp32, published_mixer> f{3, 17};
  f.backward();
  auto const din = f.din.read();
  std::vector<std::vector<double>> once;
  for (auto const& one : f.grad)
    for (auto const& part : one) once.push_back(part.read());
  f.backward();
  CHECK(f.din.read() == din);
  for (std::size_t i = 0; i < 12; ++i) {
    for (double& v : once[i]) v *= 2;
    CHECK(relative_error(f.grad[i / 6][i % 6].read(), once[i]) < 1e-6);
  }
}

TEST_CASE_TEMPLATE("cuda mixer_core_backward: more sequences than are summed at a time equal the CPU's", F,
                   backward_mixer<cuda::precision::fp32, plain_mixer>,
                   backward_mixer<cuda::precision::fp32, bidirectional_mixer>) {
  F{600, 3}.check();
}

TEST_CASE("cuda mixer_core_backward: more sequences than are done at a time equal the CPU's [long]") {
  backward_mixer<cuda::precision::fp32, plain_mixer> f{3, 26500};
  CHECK(cuda::detail::mixer_core::backward_slice(3, 26500) == 1);
  f.check();
}

TEST_CASE_TEMPLATE("cuda mixer_core_backward: two runs give the same bits, and a plan takes the memory of both", F,
                   backward_mixer<cuda::precision::bf16, least>, backward_mixer<cuda::precision::bf16, published_mixer>,
                   backward_mixer<cuda::precision::fp32, fours>) {
  F f{2, 81};
  f.ctx.plan([&] { f.backward(); });
  for (double v : f.din.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes();
  for (bool const left : {false, true}) {
    if (left) f.forward();
    f.poison();
    f.backward(left);
    auto const once = f.bits();
    f.poison();
    f.backward(left);
    CHECK(f.bits() == once);
    if (!left) CHECK(f.ctx.scratch_bytes() == bytes);
  }
}

TEST_CASE("cuda mixer_core_backward: operands that are aligned to their numbers only are read") {
  backward_mixer<cuda::precision::bf16, least> f{2, 17};
  auto values = f.host.dg;
  values.insert(values.begin(), 0);
  device_array<__nv_bfloat16> const shifted{values};
  f.backward();
  auto const want = f.din.read();
  f.poison();
  cuda::mixer_core_backward<least>(
      f.ctx, f.in.as_rows<least.projected()>(),
      {f.direction<float const>(f.p[0], f.p[0][4]), f.direction<float const>(f.p[1], f.p[0][4])},
      rows<__nv_bfloat16 const, 2 * least.d_inner(), space::device>{shifted.data() + 1, 34},
      f.din.as_rows<least.projected()>(),
      {f.direction<float>(f.grad[0], f.grad[0][4]), f.direction<float>(f.grad[1], f.grad[0][4])}, 17);
  CHECK(relative_error(f.din.read(), want) < 1e-2);
}

TEST_CASE("cuda mixer_core_backward: rows that disagree are refused by name, and nothing is written") {
  backward_mixer<cuda::precision::bf16, plain_mixer> f{2, 7};
  f.din = device_array<__nv_bfloat16>{std::size_t(13 * plain_mixer.projected())};
  CHECK(shape_message([&] { f.backward(); }) == "mixer_core_backward.dzxbcdt rows: got 13, expected 14");
  for (double v : f.din.read()) CHECK(v != v);
  f.dg = device_array<__nv_bfloat16>{std::size_t(15 * 2 * plain_mixer.d_inner())};
  CHECK(shape_message([&] { f.backward(); }) == "mixer_core_backward.dg rows: got 15, expected 14");
  f.g = device_array<__nv_bfloat16>{std::size_t(13 * 2 * plain_mixer.d_inner())};
  f.din = device_array<__nv_bfloat16>{std::size_t(14 * plain_mixer.projected())};
  f.dg = device_array<__nv_bfloat16>{std::size_t(14 * 2 * plain_mixer.d_inner())};
  f.factors = device_array<float>{std::size_t(28)};
  CHECK(shape_message([&] { f.backward(true); }) == "mixer_core_backward.left.g rows: got 13, expected 14");
  f.host.length = 4;
  CHECK(shape_message([&] { f.backward(); }) ==
        "mixer_core_backward.zxbcdt: got 14 rows, expected a multiple of the length 4");
}

TEST_CASE("cuda mixer_core_backward: no sequences are no work") {
  backward_mixer<cuda::precision::bf16, plain_mixer> f{1, 7};
  for (auto* x : {&f.in, &f.dg, &f.din}) *x = device_array<__nv_bfloat16>{0};
  f.backward();
  for (double v : f.grad[0][0].read()) CHECK(v == 0);
}
