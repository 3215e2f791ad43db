// A network of the run-time interface on operands that are on its GPU: the host's logits, in the caller's stream.
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/model/presets.hpp>
#include <dm2/run/gpu_network_of.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/random_model.hpp"

#include <cstddef>
#include <thread>
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
    device_array<float> const in{pictures}, out{want.size()}, other{want.size()};
    for (auto const* to : {&out, &other}) {  // the second time it is the recorded graph
      there->forward_device(in.data(), batch, to->data(), stream.get());
      stream.synchronize();
      CHECK(to->read() == std::vector<double>(want.begin(), want.end()));
      CHECK(to->margins_untouched());
    }
  }
}

template <config C>
void check_two_streams() {
  auto const net = run::make_gpu_network<C, cuda::precision::bf16>(1, 1);
  bench::fill_random<C>(net->state().data());
  cuda::stream const streams[2];
  std::size_t const pixels = std::size_t(sizes<C>::pixels), classes = std::size_t(C.classes);
  std::vector<std::vector<float>> pictures, want;
  for (unsigned seed = 0; seed < 2; ++seed) {
    auto const numbers = random_source{seed}.normal(pixels);
    pictures.emplace_back(numbers.begin(), numbers.end());
    want.push_back(poisoned<float>(classes));
    net->forward(pictures.back(), want.back());
  }
  device_array<float> const in[]{device_array<float>{pictures[0]}, device_array<float>{pictures[1]}};
  device_array<float> const out[]{device_array<float>{classes}, device_array<float>{classes}};
  for (int time = 0; time < 5; ++time)
    for (int i = 0; i < 2; ++i) net->on_device()->forward_device(in[i].data(), 1, out[i].data(), streams[i].get());
  for (int i = 0; i < 2; ++i) {
    streams[i].synchronize();
    CHECK(out[i].read() == std::vector<double>(want[std::size_t(i)].begin(), want[std::size_t(i)].end()));
  }
}

/// Calls of a thread whose current device is another one, where there is another.
template <config C>
void check_other_device() {
  auto const net = run::make_gpu_network<C, cuda::precision::bf16>(2, 1);
  bench::fill_random<C>(net->state().data());
  auto const numbers = random_source{9}.normal(std::size_t(sizes<C>::pixels));
  std::vector<float> const pictures(numbers.begin(), numbers.end());
  auto want = poisoned<float>(std::size_t(C.classes)), got = want;
  net->forward(pictures, want);
  int devices = 0, current = -1;
  cuda::check(cudaGetDeviceCount(&devices), "devices");
  std::thread{[&] {
    cuda::check(cudaSetDevice(devices - 1), "device");
    net->forward(pictures, got);
    cuda::check(cudaGetDevice(&current), "device");
  }}.join();
  CHECK(got == want);
  CHECK(current == devices - 1);
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

TEST_CASE("cuda run::network: two streams get each its own logits") {
  check_two_streams<bench::shallow(presets::micro)>();
}

TEST_CASE("cuda run::network: a thread with another current device gets the same logits, and keeps its device") {
  check_other_device<bench::shallow(presets::micro)>();
}

TEST_CASE("cuda run::network: a batch of no pictures is refused") { check_refused<bench::shallow(presets::micro)>(); }
