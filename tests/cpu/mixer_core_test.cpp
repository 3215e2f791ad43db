#include <dm2/cpu/fold_output_projection.hpp>

#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/mixer_case.hpp"
#include "support/compare.hpp"

#include <string>
#include <type_traits>

using namespace dm2;
using namespace dm2::test;

#define DM2_MIXER_CASES mixer_case<published_mixer>, mixer_case<plain_mixer>, mixer_case<bidirectional_mixer>

namespace {

constexpr mixer_shape golden_gate{.heads = 4, .headdim = 8, .d_state = 1, .groups = 1, .d_conv = 1};
constexpr mixer_shape golden_gate_of_two{.heads = 4, .headdim = 8, .d_state = 1, .groups = 2, .d_conv = 1};

}  // namespace

TEST_CASE_TEMPLATE("mixer_core: gate and norm equal the reference's, in one group and in two", T, double, float) {
  auto const check = [](auto shape) {
    constexpr mixer_shape M = decltype(shape)::value;
    golden_layer<T> const g{"gated_rms_norm_g" + std::to_string(M.groups)};
    auto const y = g.in("y"), z = g.in("z"), w = g.in("weight"), dg = g.cotangent();
    auto out = poisoned<T>(y.size()), dy = out;
    std::vector<T> dz(z.size()), dw(w.size());
    auto const tokens = [](auto& v) {
      return cpu::sequence<std::remove_reference_t<decltype(*v.data())>>{v.data(), 32, 10};
    };
    cpu::detail::gate_and_norm<M, T>(y.data(), tokens(z), w.data(), tokens(out));
    CHECK(g.out_error(out) < g.out_tolerance);
    cpu::detail::gate_and_norm_backward<M, T>(y.data(), tokens(z), w.data(), tokens(dg), dy.data(), tokens(dz),
                                              dw.data());
    CHECK(g.gradient_error("y", dy) < g.gradient_tolerance);
    CHECK(g.gradient_error("z", dz) < g.gradient_tolerance);
    CHECK(g.gradient_error("weight", dw) < g.gradient_tolerance);
  };
  check(std::integral_constant<mixer_shape, golden_gate>{});
  check(std::integral_constant<mixer_shape, golden_gate_of_two>{});
}

TEST_CASE_TEMPLATE("mixer_core: each half equals a direction over the flipped projection", F, DM2_MIXER_CASES) {
  for (int const length : {1, 2, 7, 17, 64, 65, 197}) {
    CAPTURE(length);
    F f{2, length, 2};
    f.forward();
    naive::numbers want[2];
    for (int i = 0; i < f.batch; ++i) {
      auto halves = naive_directions(f, i);
      for (int k : {0, 1}) want[k].insert(want[k].end(), halves[std::size_t(k)].begin(), halves[std::size_t(k)].end());
    }
    for (int k : {0, 1})
      CHECK(relative_error(naive::columns(f.g, 2 * F::inner, k * F::inner, F::inner), want[k]) < 1e-12);
  }
}

TEST_CASE_TEMPLATE("mixer_core: with the folded projection, the mean of both projected directions", F,
                   DM2_MIXER_CASES) {
  constexpr int D = 3, I = F::inner;
  F f{1, 17};
  auto const w = f.random.normal(D * I), w_b = f.random.normal(D * I);
  f.forward();
  auto const halves = naive_directions(f, 0);
  auto merged = poisoned(D * 2 * I);
  cpu::fold_output_projection<F::shape.variant>(f.ctx, as_block<D, I>(w), as_block<D, I>(w_b),
                                                as_block<D, 2 * I>(merged));
  auto const got = naive::linear(f.g, merged, {}, 2 * I, D);
  auto want = naive::linear(halves[0], w, {}, I, D);
  // the projection belongs to the direction, so it reads what the direction wrote, before that is flipped back
  auto const second = flip<F::shape>(naive::linear(flip<F::shape>(halves[1], I), w_b, {}, I, D), D);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = (want[i] + second[i]) / 2;
  CHECK(relative_error(got, want) < 1e-12);
}

TEST_CASE("mixer_core: rows that disagree are refused by name, and nothing is written") {
  mixer_case<plain_mixer> f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 14 rows, expected a multiple of the length 5");
  f.length = 0;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 14 rows, expected a multiple of the length 0");
  f.length = 7;
  CHECK(untouched(f.g));
  f.g = poisoned(13 * 30);
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.g rows: got 13, expected 14");
  CHECK(untouched(f.g));
}

TEST_CASE("mixer_core: one thread and two give the same bits") {
  mixer_case<published_mixer> one{3, 65, 1}, two{3, 65, 2};
  one.forward();
  two.forward();
  CHECK(one.g == two.g);
}
