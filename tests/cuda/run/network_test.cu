// A network of the run-time interface on operands that are on its GPU: the host's logits, in the caller's stream.
#include <dm2/cuda/device/stream.cuh>
#include <dm2/model/presets.hpp>
#include <dm2/run/gpu_network_of.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/random_model.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

// Templates, since nvcc 13 cannot print the local types of a plain function that have a configuration as argument.

template <config C>
void check_on_device() {
  auto const net = run::make_gpu_network<C, cuda::precision::bf16>(2, 1);
  bench::fill_random<C>(net->state().data());
  run::device_network* const there = net->on_device();
  REQUIRE(there != nullptr);
  CHECK(there->device() == 0);
  cuda::stream const stream;
  for (int const batch : {1, 2, 3}) {
    CAPTURE(batch);
    std::size_t const pixels = std::size_t(sizes<C>::pixels), classes = std::size_t(C.classes);
    auto const numbers = random_source{unsigned(batch)}.normal(std::size_t(batch) * pixels);
    std::vector<float> const pictures(numbers.begin(), numbers.end());
    auto want = poisoned<float>(std::size_t(batch) * classes);
    net->forward(pictures, want);
    device_array<float> const in{pictures}, out{want.size()};
    for (int time = 0; time < 2; ++time) {  // the second time it is the recorded graph
      there->forward_device(in.data(), batch, out.data(), stream.get());
      stream.synchronize();
      CHECK(out.read() == std::vector<double>(want.begin(), want.end()));
      CHECK(out.margins_untouched());
    }
  }
}

template <config C>
void check_refused() {
  auto const net = run::make_gpu_network<C, cuda::precision::bf16>(1, 1);
  CHECK_THROWS_AS(net->on_device()->forward_device(nullptr, 0, nullptr, nullptr), shape_error);
}

}  // namespace

TEST_CASE("cuda run::network: operands on the device give the host's logits, bit by bit, in the caller's stream") {
  check_on_device<bench::shallow(presets::micro)>();
}

TEST_CASE("cuda run::network: a batch of no pictures is refused") { check_refused<bench::shallow(presets::micro)>(); }
