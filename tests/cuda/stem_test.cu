#include <dm2/cuda/stem.cuh>

#include <doctest/doctest.h>

#include "cuda/stem/device_case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cmath>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr stem_shape small{.height = 32, .width = 32, .channels = 3, .hidden = 64, .patch = 8, .dim = 48};
constexpr stem_shape quick{.height = 48, .width = 48, .channels = 3, .hidden = 32, .patch = 8, .dim = 96};
constexpr stem_shape odd{.height = 20, .width = 28, .channels = 1, .hidden = 5, .patch = 4, .dim = 7};
constexpr stem_shape narrow{.height = 24, .width = 40, .channels = 4, .hidden = 48, .patch = 4, .dim = 24};
constexpr stem_shape broad{.height = 16, .width = 40, .channels = 1, .hidden = 96, .patch = 8, .dim = 200};
constexpr stem_shape tiny{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};

/// Four products, each with rounded operands, behind one another.
template <class F>
constexpr double tolerance = 2 * product_tolerance<F::number_precision>;

template <class F>
void check_forms(F& f) {
  f.prepare();
  f.host.evaluate();
  auto const planar = f.forward(static_cast<float const*>(f.planar.data()));
  CHECK(relative_error(planar, f.host.grid) < tolerance<F>);
  f.poison_scratch();
  CHECK(f.forward(f.pictures_in_bytes()) == planar);  // the same numbers once they are rounded
  CHECK(f.grid.margins_untouched());
}

/// Sparse weights and pictures of -1, 0 and 1, BatchNorm that adds an integer: every number on the way is a small
/// integer, so that each of them is exact in 16 bits and one wrong tap of one pixel shows.
template <class F>
void make_integers(F& f) {
  auto const sparse = [&](std::vector<double>& w, int inputs, double kept) {
    for (double& v : w) {
      double const u = f.host.random.uniform(1, 0, 1)[0];
      v = u * inputs < kept / 2 ? -1 : u * inputs < kept ? 1 : 0;
    }
  };
  constexpr stem_shape S = F::shape;
  sparse(f.host.p.conv1, S.channels * 49, 5);
  for (auto& w : f.host.p.conv) sparse(w, S.hidden * 9, 4);
  sparse(f.host.p.proj, 1, 0.5);
  sparse(f.host.picture, 1, 0.9);
  for (std::size_t i = 0; i < 3; ++i) {
    f.host.p.weight[i].assign(S.hidden, 1), f.host.mean[i].assign(S.hidden, 0),
        f.host.var[i].assign(S.hidden, 1 - 1e-5);
    for (double& v : f.host.p.bias[i]) v = std::floor(2 * v);
  }
  for (double& v : f.host.p.proj_bias) v = std::floor(4 * v);
}

}  // namespace

#define DM2_STEMS                                                                                                     \
  device_stem<small, precision::bf16>, device_stem<small, precision::fp16>, device_stem<small, precision::fp32>,      \
      device_stem<quick, precision::bf16>, device_stem<odd, precision::bf16>, device_stem<odd, precision::fp32>,      \
      device_stem<narrow, precision::fp16>, device_stem<broad, precision::bf16>, device_stem<broad, precision::fp32>, \
      device_stem<narrow, precision::tf32>, device_stem<small, precision::tf32>

TEST_CASE_TEMPLATE("cuda stem: equals the CPU's in double, from floats and from bytes", F, DM2_STEMS) {
  for (int const batch : {1, 3}) {
    F f{batch};
    check_forms(f);
  }
}

TEST_CASE_TEMPLATE("cuda stem: equals the CPU's in double at Tiny's size", F, device_stem<tiny, precision::bf16>,
                   device_stem<tiny, precision::fp32>, device_stem<tiny, precision::tf32>) {
  for (int const batch : {1, 3}) {
    F f{batch};
    check_forms(f);
  }
}

TEST_CASE_TEMPLATE("cuda stem: integers come out exact, with any amount of shared memory", F,
                   device_stem<small, precision::bf16>, device_stem<quick, precision::bf16>,
                   device_stem<narrow, precision::fp16>, device_stem<broad, precision::bf16>,
                   device_stem<tiny, precision::bf16>, device_stem<narrow, precision::fp32>,
                   device_stem<broad, precision::fp32>, device_stem<narrow, precision::tf32>) {
  F f{F::shape.height == 224 ? 2 : 5};
  make_integers(f);
  f.prepare();
  f.host.evaluate();
  for (double& v : f.host.grid) v = std::round(v);  // BatchNorm's scale is 1 to 1e-7 in the oracle
  for (int const kilobytes : {227, 163, 99, 48}) CHECK(f.forward_with(kilobytes * 1024) == f.host.grid);
}

TEST_CASE_TEMPLATE("cuda stem: token rows are the grid with the class token in the middle, plus positions", F,
                   device_stem<small, precision::bf16>, device_stem<odd, precision::fp32>,
                   device_stem<tiny, precision::bf16>) {
  F f{2};
  f.prepare();
  auto const grid = f.forward(f.pictures_in_bytes()), x = f.tokens(f.pictures_in_bytes());
  CHECK(f.tokens(static_cast<float const*>(f.planar.data())) == x);
  CHECK(f.x.margins_untouched());
  auto const cls = f.cls.read(), pos = f.pos.read();
  std::vector<double> want;
  for (std::size_t b = 0, patch = 0; b < 2; ++b)
    for (int t = 0; t < F::length; ++t)
      for (int d = 0; d < F::dim; ++d) {
        bool const middle = t == (F::length - 1) / 2;
        want.push_back((middle ? cls[std::size_t(d)] : grid[patch++]) + pos[std::size_t(t * F::dim + d)]);
      }
  CHECK(relative_error(x, want) < 1e-6);
}

TEST_CASE("cuda stem: no pictures write nothing, and a part of a picture is refused by name") {
  device_stem<odd, precision::fp32> f{2};
  f.prepare();
  auto const forward = [&](std::size_t rows_of_grid) {
    cuda::stem_forward(f.ctx, f.pictures_in_bytes(), f.weights, {f.grid.data(), rows_of_grid});
  };
  auto const tokens = [&](std::size_t rows_of_x) {
    cuda::stem_tokens(f.ctx, f.pictures_in_bytes(), f.weights, f.cls.as_block<1, 1, 7>(), f.pos.as_block<1, 36, 7>(),
                      {f.x.data(), rows_of_x});
  };
  forward(0), tokens(0);
  CHECK(shape_message([&] { forward(69); }) == "stem.grid: got 69 rows, expected a multiple of the tokens 35");
  CHECK(shape_message([&] { tokens(70); }) ==
        "stem_tokens.x: got 70 rows, expected a multiple of the tokens and the class token 36");
  for (auto const* a : {&f.grid, &f.x})
    for (double v : a->read()) CHECK(std::isnan(v));
}

TEST_CASE("cuda stem: planning takes the scratch that the run needs, and two runs give the same bits") {
  device_stem<tiny, precision::bf16> f{1};
  f.prepare();
  f.ctx.plan([&] { f.forward(f.pictures_in_bytes()); });
  std::size_t const planned = f.ctx.scratch_bytes();
  CHECK(planned > 0);
  f.poison_scratch();
  auto const once = f.forward(f.pictures_in_bytes());
  f.poison_scratch();
  CHECK(f.forward(f.pictures_in_bytes()) == once);
  CHECK(f.ctx.scratch_bytes() == planned);
}
