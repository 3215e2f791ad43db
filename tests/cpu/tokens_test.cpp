#include <dm2/cpu/tokens.hpp>

#include <doctest/doctest.h>

#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 3;

template <int L>
struct token_case {
  static constexpr int length = L;
  std::size_t batch;
  cpu::context<double> ctx{2};
  random_source random{89};
  std::vector<double> grid, cls, pos, dx, x, dgrid, dcls, dpos;

  explicit token_case(std::size_t n)
      : batch{n},
        grid{random.normal(n * (L - 1) * D)},
        cls{random.normal(D)},
        pos{random.normal(L * D)},
        dx{random.normal(n * L * D)},
        x{poisoned(n * L * D)},
        dgrid{poisoned(grid.size())},
        dcls(D),
        dpos(L * D) {}

  void forward() {
    cpu::assemble_tokens(ctx, as_rows<D>(grid), as_block<1, 1, D>(std::as_const(cls)),
                         as_block<1, L, D>(std::as_const(pos)), as_rows<D>(x));
  }
  void backward() {
    cpu::assemble_tokens_backward(ctx, as_rows<D>(dx), as_rows<D>(dgrid), as_block<1, 1, D>(dcls),
                                  as_block<1, L, D>(dpos));
  }
};

#define DM2_LENGTHS token_case<1>, token_case<2>, token_case<7>, token_case<18>, token_case<197>

/// The grid that MixToken makes, by its definition.
std::vector<double> mixed(std::vector<double> const& grid, std::size_t batch, int height, int width, mix_box box) {
  std::vector<double> out = grid;
  std::size_t const picture = grid.size() / batch;
  for (std::size_t b = 0; b < batch; ++b)
    for (int r = box.row0; r < box.row1; ++r)
      for (int c = box.col0; c < box.col1; ++c)
        for (std::size_t k = 0; k < D; ++k) {
          std::size_t const at = std::size_t(r * width + c) * D + k;
          out[b * picture + at] = grid[(batch - 1 - b) * picture + at];
        }
  REQUIRE(picture == std::size_t(height * width * D));
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("assemble_tokens: the class token stands after half of the patches", F, DM2_LENGTHS) {
  F f{3};
  f.forward();
  std::size_t const patches = F::length - 1, middle = patches / 2;
  for (std::size_t b = 0; b < 3; ++b)
    for (std::size_t t = 0; t <= patches; ++t)
      for (std::size_t c = 0; c < D; ++c) {
        double const in = t == middle ? f.cls[c] : f.grid[(b * patches + t - (t > middle ? 1 : 0)) * D + c];
        CHECK(f.x[(b * F::length + t) * D + c] == in + f.pos[t * D + c]);
      }
}

TEST_CASE_TEMPLATE("assemble_tokens: gradients match central differences", F, DM2_LENGTHS) {
  F f{2};
  f.backward();
  auto const loss = [&] {
    f.forward();
    return dot(f.x, f.dx);
  };
  CHECK(gradient_error(f.grid, f.dgrid, loss) < 1e-9);
  CHECK(gradient_error(f.cls, f.dcls, loss) < 1e-9);
  CHECK(gradient_error(f.pos, f.dpos, loss) < 1e-9);
}

TEST_CASE("assemble_tokens: the patches' gradient is overwritten, those of class token and positions accumulate") {
  token_case<7> f{3}, g{3};
  f.backward();
  g.backward();
  g.backward();
  CHECK(g.dgrid == f.dgrid);
  for (std::size_t i = 0; i < D; ++i) CHECK(g.dcls[i] == doctest::Approx(2 * f.dcls[i]).epsilon(1e-14));
  for (std::size_t i = 0; i < 7 * D; ++i) CHECK(g.dpos[i] == doctest::Approx(2 * f.dpos[i]).epsilon(1e-14));
}

TEST_CASE("assemble_tokens: rows that are no whole pictures are refused by name, and nothing is written") {
  token_case<7> f{2};
  f.x = poisoned(13 * D);
  CHECK(shape_message([&] { f.forward(); }) == "assemble_tokens.x rows: got 13, expected 7");
  f.x = poisoned(21 * D);
  CHECK(shape_message([&] { f.forward(); }) == "assemble_tokens.grid rows: got 12, expected 18");
  CHECK(untouched(f.x));
  f.dgrid = poisoned(11 * D);
  CHECK(shape_message([&] { f.backward(); }) == "assemble_tokens_backward.dgrid rows: got 11, expected 12");
  CHECK(untouched(f.dgrid));
  for (double v : f.dpos) CHECK(v == 0);
}

TEST_CASE("mix_tokens: inside the box each sample has its partner's patches, and a second call undoes the first") {
  cpu::context<double> ctx{2};
  for (std::size_t const batch : {1u, 2u, 3u, 4u})
    for (mix_box const box : {mix_box{}, mix_box{0, 3, 0, 5}, mix_box{1, 2, 1, 4}, mix_box{2, 3, 4, 5},
                              mix_box{2, 2, 0, 5}, mix_box{2, 1, 0, 5}}) {
      auto const before = random_source{97}.normal(batch * 3 * 5 * D);
      auto grid = before;
      cpu::mix_tokens(ctx, as_rows<D>(grid), 3, 5, box);
      CHECK(grid == mixed(before, batch, 3, 5, box));
      cpu::mix_tokens(ctx, as_rows<D>(grid), 3, 5, box);
      CHECK(grid == before);
    }
}

TEST_CASE("mix_tokens: is its own gradient") {
  cpu::context<double> ctx;
  random_source random{101};
  auto grid = random.normal(3 * 15 * D);
  auto const w = random.normal(grid.size());
  auto dgrid = w;
  mix_box const box{1, 3, 0, 2};
  cpu::mix_tokens(ctx, as_rows<D>(dgrid), 3, 5, box);
  CHECK(gradient_error(grid, dgrid, [&] {
          auto y = grid;
          cpu::mix_tokens(ctx, as_rows<D>(y), 3, 5, box);
          return dot(y, w);
        }) < 1e-9);
}

TEST_CASE("mix_tokens: a box that leaves the grid and a part of a picture are refused, and nothing is written") {
  cpu::context<double> ctx;
  auto const before = random_source{103}.normal(2 * 15 * D);
  auto grid = before;
  for (mix_box const box : {mix_box{-1, 2, 0, 5}, mix_box{0, 4, 0, 5}, mix_box{0, 3, -1, 5}, mix_box{0, 3, 0, 6}}) {
    std::string const message = shape_message([&] { cpu::mix_tokens(ctx, as_rows<D>(grid), 3, 5, box); });
    CHECK(message == "mix_tokens.box: got rows [" + std::to_string(box.row0) + ", " + std::to_string(box.row1) +
                         "), columns [" + std::to_string(box.col0) + ", " + std::to_string(box.col1) +
                         "), expected it inside 3 x 5");
  }
  auto const whole = [&](int height) {
    return shape_message([&] { cpu::mix_tokens(ctx, as_rows<D>(grid), height, 5, {}); });
  };
  CHECK(whole(4) == "mix_tokens.grid: got 30 rows, expected a multiple of the patches 4 x 5");
  CHECK(whole(0) == "mix_tokens.grid: got 30 rows, expected a multiple of the patches 0 x 5");
  CHECK(grid == before);
}
