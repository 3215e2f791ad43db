#include <dm2/cuda/mixer_core/general.cuh>

#include <doctest/doctest.h>

#include "cpu/mixer_case.hpp"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <array>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// A mixer_case whose numbers the device can hold, and their copies there.
template <cuda::precision P, mixer_shape M>
struct general_case {
  using T = cuda::element<P>;
  mixer_case<M> host;
  cuda::context<P> ctx;
  std::array<std::array<device_array<float>, 6>, 2> p;
  device_array<T> in, g;

  general_case(int sequences, int tokens) : host{sequences, tokens, 2} {
    host.in = rounded<T>(host.in);
    in = device_array<T>{host.in};
    g = device_array<T>{host.g.size()};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t k = 0; k < 6; ++k) {
        host.p[i][k] = rounded<float>(host.p[i][k]);
        p[i][k] = device_array<float>{host.p[i][k]};
      }
  }

  [[nodiscard]] mixer_direction<M, float const, space::device> direction(std::size_t i, std::size_t d) const {
    constexpr int C = M.conv_dim();
    return {p[i][0].template as_block<C, 1, M.d_conv>(), p[i][1].template as_block<C>(),
            p[i][2].template as_block<M.heads>(),        p[i][3].template as_block<M.heads>(),
            p[d][4].template as_block<M.heads>(),        p[i][5].template as_block<M.d_inner()>()};
  }
  [[nodiscard]] mixer_parameters<M, float const, space::device> parameters() const {
    return {direction(0, 0), direction(1, mixer_case<M>::second_d)};
  }
  void forward() {
    cuda::detail::mixer_core::launch_general<M>(ctx, in.template as_rows<M.projected()>(), parameters(),
                                                g.template as_rows<2 * M.d_inner()>(), host.length);
  }
  /// x, B, C, y and g are rounded one after the other.
  void check() {
    CAPTURE(host.length);
    forward();
    host.forward();
    CHECK(relative_error(g.read(), host.g) < 2 * rounding_tolerance<T>);
    CHECK(g.margins_untouched());
  }
};

/// More states than a thread holds; more channels a head than a block holds; a wide group.
constexpr mixer_shape many_states{.heads = 2, .headdim = 5, .d_state = 131, .groups = 1, .d_conv = 4};
constexpr mixer_shape many_channels{
    .heads = 1, .headdim = 301, .d_state = 3, .groups = 1, .d_conv = 1, .variant = mixer_variant::bidirectional};
constexpr mixer_shape tiny_mixer{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape wide_group{.heads = 3, .headdim = 701, .d_state = 2, .groups = 1, .d_conv = 5};
/// Four channels an access, in more than one step of a warp and with lanes past the group's end.
constexpr mixer_shape by_four{.heads = 4, .headdim = 68, .d_state = 8, .groups = 2, .d_conv = 4};
constexpr mixer_shape by_four_mirrored{
    .heads = 4, .headdim = 8, .d_state = 12, .groups = 1, .d_conv = 5, .variant = mixer_variant::bidirectional};
constexpr mixer_shape by_four_wide{.heads = 4, .headdim = 600, .d_state = 4, .groups = 1, .d_conv = 1};

}  // namespace

TEST_CASE_TEMPLATE("mixer_core_general: equals the CPU's in double, at lengths around those of its parts", P, in_bf16,
                   in_fp16, in_fp32) {
  for (int const length : {1, 2, 15, 16, 17, 63, 64, 65, 197}) {
    general_case<P::value, published_mixer>{2, length}.check();
    general_case<P::value, plain_mixer>{3, length}.check();
    general_case<P::value, bidirectional_mixer>{2, length}.check();
  }
  general_case<P::value, published_mixer>{1, 785}.check();
  general_case<P::value, bidirectional_mixer>{1, 3137}.check();
}

TEST_CASE_TEMPLATE("mixer_core_general: equals the CPU's for states, heads and groups of any size", P, in_bf16,
                   in_fp32) {
  general_case<P::value, many_states>{2, 65}.check();
  general_case<P::value, many_channels>{1, 17}.check();
  general_case<P::value, wide_group>{1, 17}.check();
  general_case<P::value, tiny_mixer>{1, 197}.check();
}

TEST_CASE_TEMPLATE("mixer_core_general: four channels an access equal the CPU's around its tokens and runs", P, in_bf16,
                   in_fp32) {
  static_assert(cuda::detail::mixer_core::direction_traits<by_four, true>::vector == 4 &&
                cuda::detail::mixer_core::direction_traits<by_four_mirrored, true>::vector == 4 &&
                cuda::detail::mixer_core::direction_traits<by_four_wide, true>::vector == 4);
  for (int const length : {1, 3, 4, 5, 15, 16, 17, 31, 32, 33}) {
    general_case<P::value, by_four>{2, length}.check();
    general_case<P::value, by_four_mirrored>{3, length}.check();
  }
  general_case<P::value, by_four_wide>{1, 5}.check();
}

TEST_CASE_TEMPLATE("mixer_core_general: operands that are aligned to their numbers only are read and written", P,
                   in_bf16, in_fp32) {
  using T = cuda::element<P::value>;
  constexpr int wide = by_four.projected(), out = 2 * by_four.d_inner();
  general_case<P::value, by_four> f{2, 17};
  auto numbers = f.host.in;
  numbers.insert(numbers.begin(), 0);
  device_array<T> const in{numbers};
  device_array<T> g{f.host.g.size() + 1};
  f.host.forward();
  std::size_t const tokens = 2 * 17;
  cuda::detail::mixer_core::launch_general<by_four>(f.ctx, {in.data() + 1, tokens}, f.parameters(),
                                                    f.g.template as_rows<out>(), 17);
  CHECK(relative_error(f.g.read(), f.host.g) < 2 * rounding_tolerance<T>);
  cuda::detail::mixer_core::launch_general<by_four>(f.ctx, f.in.template as_rows<wide>(), f.parameters(),
                                                    {g.data() + 1, tokens}, 17);
  auto got = g.read();
  got.erase(got.begin());
  CHECK(relative_error(got, f.host.g) < 2 * rounding_tolerance<T>);
  CHECK(g.margins_untouched());
}

TEST_CASE("mixer_core_general: two runs give the same bits, and a plan takes the memory of both") {
  general_case<cuda::precision::bf16, published_mixer> f{2, 197};
  f.ctx.plan([&] { f.forward(); });
  for (double v : f.g.read()) REQUIRE(v != v);
  std::size_t const bytes = f.ctx.scratch_bytes();
  f.forward();
  auto const once = f.g.read();
  f.forward();
  CHECK(f.g.read() == once);
  CHECK(f.ctx.scratch_bytes() == bytes);
}

TEST_CASE("mixer_core_general: rows that disagree are refused by name, and nothing is written") {
  general_case<cuda::precision::bf16, plain_mixer> f{2, 7};
  f.host.length = 5;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 14 rows, expected a multiple of the length 5");
  f.host.length = 0;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 14 rows, expected a multiple of the length 0");
  f.host.length = 7;
  for (double v : f.g.read()) CHECK(v != v);
  f.g = device_array<__nv_bfloat16>{13 * 30};
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.g rows: got 13, expected 14");
  for (double v : f.g.read()) CHECK(v != v);
}
