#include <dm2/cpu/tokens.hpp>
#include <dm2/cuda/tokens.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 5;

template <int L>
using length = std::integral_constant<int, L>;

}  // namespace

TEST_CASE_TEMPLATE("cuda assemble_tokens: the same bits as the CPU's", L, length<1>, length<2>, length<17>, length<63>,
                   length<64>, length<65>, length<197>, length<785>, length<3137>) {
  constexpr std::size_t batch = 3;
  random_source random{89};
  auto const grid = random.normal<float>(batch * (L::value - 1) * D), cls = random.normal<float>(D),
             pos = random.normal<float>(L::value * D);
  auto want = poisoned<float>(batch * L::value * D);
  cpu::context<float> host;
  cpu::assemble_tokens(host, as_rows<D>(grid), as_block<1, 1, D>(cls), as_block<1, L::value, D>(pos), as_rows<D>(want));

  cuda::context<> ctx;
  device_array<float> const device_grid{grid}, device_cls{cls}, device_pos{pos}, x(want.size());
  cuda::assemble_tokens<cuda::precision::bf16, D, L::value>(ctx, device_grid.as_rows<D>(),
                                                            device_cls.as_block<1, 1, D>(),
                                                            device_pos.as_block<1, L::value, D>(), x.as_rows<D>());
  CHECK(x.read() == std::vector<double>(want.begin(), want.end()));
  CHECK(x.margins_untouched());
}

TEST_CASE("cuda assemble_tokens: unequal pictures are refused by name, and nothing is written") {
  constexpr int L = 7;
  cuda::context<> ctx;
  device_array<float> const grid(12 * D), cls(D), pos(L * D), x(2 * L * D);
  auto const run = [&](std::size_t patches, std::size_t tokens) {
    cuda::assemble_tokens<cuda::precision::bf16, D, L>(ctx, {grid.data(), patches}, cls.as_block<1, 1, D>(),
                                                       pos.as_block<1, L, D>(), {x.data(), tokens});
  };
  run(0, 0);
  CHECK(shape_message([&] { run(12, 13); }) == "assemble_tokens.x rows: got 13, expected 7");
  CHECK(shape_message([&] { run(11, 14); }) == "assemble_tokens.grid rows: got 11, expected 12");
  for (double v : x.read()) CHECK(std::isnan(v));
}
