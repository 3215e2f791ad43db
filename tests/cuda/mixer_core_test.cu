#include <dm2/cuda/mixer_core.cuh>

#include <doctest/doctest.h>

#include "cuda/mixer_core/case.cuh"
#include "support/compare.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

template <cuda::precision P, mixer_shape M>
struct variant {
  using T = cuda::element<P>;
  static constexpr double tolerance = P == cuda::precision::bf16 ? 1.5e-2 : P == cuda::precision::fp32 ? 2e-5 : 2e-3;

  static void check_length(int sequences, int length) {
    CAPTURE(length);
    CAPTURE(M.headdim);
    device_mixer<P, M> f{sequences, length};
    f.forward();
    f.host.forward();
    double const error = relative_error(f.g.read(), f.host.g);
    MESSAGE("mixer_core ", int(P), " H ", M.heads, " P ", M.headdim, " N ", M.d_state, " L ", length, ": ", error);
    CHECK(error < tolerance);
    CHECK(f.g.margins_untouched());
    auto const bytes = f.g.read();
    f.forward();
    CHECK(f.g.read() == bytes);
  }
};

constexpr mixer_shape six_heads{.heads = 6, .headdim = 64, .d_state = 64, .groups = 2, .d_conv = 4};
constexpr mixer_shape wide_state{.heads = 4, .headdim = 16, .d_state = 256, .groups = 1, .d_conv = 5};

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;
constexpr auto fp32 = cuda::precision::fp32;
constexpr auto tf32 = cuda::precision::tf32;

}  // namespace

TEST_CASE_TEMPLATE("cuda mixer_core: equals the CPU's in double at every length", V, variant<bf16, tiny_mixer>,
                   variant<fp16, tiny_mixer>, variant<bf16, small_mixer>, variant<bf16, small_state>,
                   variant<fp16, four_heads>) {
  for (int const length : {1, 15, 16, 17, 63, 64, 65, 128, 129, 197, 224}) V::check_length(2, length);
}

TEST_CASE_TEMPLATE("cuda mixer_core: float and odd sizes take the composed form", V, variant<fp32, tiny_mixer>,
                   variant<fp32, published_mixer>, variant<bf16, published_mixer>, variant<fp32, plain_mixer>,
                   variant<fp32, bidirectional_mixer>, variant<tf32, tiny_mixer>, variant<fp32, four_heads>) {
  for (int const length : {1, 17, 65, 197, 785}) V::check_length(1, length);
}

TEST_CASE_TEMPLATE("cuda mixer_core: composed sizes whose scan is on tensor cores equal the CPU's in double", V,
                   variant<bf16, six_heads>, variant<fp16, wide_state>) {
  for (int const length : {1, 65, 197, 257}) V::check_length(1, length);
}

TEST_CASE("cuda mixer_core: many sequences give what one gives") {
  device_mixer<bf16, tiny_mixer> many{300, 33};
  many.forward();
  many.host.forward();
  CHECK(relative_error(many.g.read(), many.host.g) < 1.5e-2);
}

TEST_CASE("cuda mixer_core: row counts that differ are refused by name") {
  device_mixer<bf16, tiny_mixer> f{2, 17};
  f.host.length = 16;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 34 rows, expected a multiple of the length 16");
}

TEST_CASE("cuda mixer_core: no sequences are no work") {
  device_mixer<bf16, tiny_mixer> f{1, 17};
  f.in = device_array<__nv_bfloat16>{0};
  f.g = device_array<__nv_bfloat16>{0};
  f.forward();
  CHECK(f.g.margins_untouched());
}

TEST_CASE("cuda mixer_core: operands that are aligned to their numbers only are read") {
  constexpr int width = tiny_mixer.projected();
  device_mixer<bf16, tiny_mixer> f{2, 17};
  f.forward();
  auto const want = f.g.read();
  auto values = f.host.in;
  values.insert(values.begin(), 0);
  device_array<__nv_bfloat16> const in{values};
  device_array<__nv_bfloat16> g{want.size() + 1};
  cuda::mixer_core<tiny_mixer>(f.ctx, rows<__nv_bfloat16 const, width, space::device>{in.data() + 1, 34},
                               f.parameters(),
                               rows<__nv_bfloat16, 2 * tiny_mixer.d_inner(), space::device>{g.data() + 1, 34}, 17);
  auto const all = g.read();
  CHECK(all[0] != all[0]);
  CHECK(relative_error(std::vector<double>(all.begin() + 1, all.end()), want) < 1e-2);
}
