#include <dm2/cpu/tokens.hpp>
#include <dm2/cuda/tokens.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 5;

template <int L>
using length = std::integral_constant<int, L>;

template <int L, cuda::precision P>
void check_backward(int batch) {
  using T = cuda::element<P>;
  random_source random{97};
  std::size_t const n = std::size_t(batch);
  auto const dx = rounded<float>(random.normal(n * L * D));
  auto dcls = rounded<float>(random.normal(D)), dpos = rounded<float>(random.normal(L * D));
  cuda::context<P> ctx;
  device_array<float> const device_dx{dx}, device_dcls{dcls}, device_dpos{dpos};
  device_array<T> const dgrid(n * (L - 1) * D);
  cuda::assemble_tokens_backward(ctx, device_dx.as_rows<D>(), dgrid.template as_rows<D>(),
                                 device_dcls.as_block<1, 1, D>(), device_dpos.as_block<1, L, D>());
  auto want = poisoned(n * (L - 1) * D);
  cpu::context<double> host;
  cpu::assemble_tokens_backward(host, as_rows<D>(dx), as_rows<D>(want), as_block<1, 1, D>(dcls),
                                as_block<1, L, D>(dpos));
  CHECK(dgrid.read() == rounded<T>(want));
  CHECK(relative_error(device_dcls.read(), dcls) < 1e-6);
  CHECK(relative_error(device_dpos.read(), dpos) < 1e-6);
  for (bool const untouched :
       {device_dcls.margins_untouched(), device_dpos.margins_untouched(), dgrid.margins_untouched()})
    CHECK(untouched);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda assemble_tokens_backward: equals the CPU's in double", L, length<1>, length<2>, length<17>,
                   length<64>, length<65>, length<197>) {
  for (int const batch : {1, 2, 19}) {
    check_backward<L::value, cuda::precision::bf16>(batch);
    check_backward<L::value, cuda::precision::fp32>(batch);
  }
}

TEST_CASE_TEMPLATE("cuda assemble_tokens: takes a grid of 16-bit numbers", L, length<2>, length<17>, length<64>) {
  constexpr std::size_t batch = 3;
  random_source random{89};
  auto const grid = rounded<__half>(random.normal(batch * (L::value - 1) * D));
  auto const cls = rounded<float>(random.normal(D)), pos = rounded<float>(random.normal(L::value * D));
  cuda::context<cuda::precision::fp16> ctx;
  device_array<__half> const device_grid{grid};
  device_array<float> const device_cls{cls}, device_pos{pos}, x(batch * L::value * D);
  cuda::assemble_tokens(ctx, device_grid.as_rows<D>(), block<float const, space::device, 1, 1, D>{device_cls.data()},
                        block<float const, space::device, 1, L::value, D>{device_pos.data()}, x.as_rows<D>());
  auto want = poisoned(x.size());
  cpu::context<double> host;
  cpu::assemble_tokens(host, as_rows<D>(grid), as_block<1, 1, D>(cls), as_block<1, L::value, D>(pos), as_rows<D>(want));
  CHECK(relative_error(x.read(), want) < 1e-6);
  CHECK(x.margins_untouched());
}

TEST_CASE("cuda assemble_tokens_backward: unequal pictures are refused by name, and nothing is written") {
  constexpr int L = 7;
  cuda::context<> ctx;
  using T = cuda::context<>::element;
  device_array<float> const dx(14 * D), dcls{std::vector<float>(D)}, dpos{std::vector<float>(L * D)};
  device_array<T> const dgrid(12 * D);
  auto const run = [&](std::size_t tokens, std::size_t patches) {
    cuda::assemble_tokens_backward(ctx, {dx.data(), tokens}, {dgrid.data(), patches}, dcls.as_block<1, 1, D>(),
                                   dpos.as_block<1, L, D>());
  };
  run(0, 0);
  CHECK(shape_message([&] { run(13, 12); }) == "assemble_tokens_backward.dx rows: got 13, expected 7");
  CHECK(shape_message([&] { run(14, 11); }) == "assemble_tokens_backward.dgrid rows: got 11, expected 12");
  for (double v : dgrid.read()) CHECK(std::isnan(v));
  for (double v : dpos.read()) CHECK(v == 0);
}
