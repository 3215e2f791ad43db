// Each operation of an evaluation on the GPU, beside what the device can do.
//
//   dm2_cuda_operations_bench            Tiny and Small at batch 256 and 1
//   dm2_cuda_operations_bench --chain    Tiny at batch 1, 2, 8 and 16: what each operation takes in the chain of all
//   dm2_cuda_operations_bench --check    only compares with the model
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/model.cuh>

#include "cuda/device_report.cuh"
#include "cuda/network_steps.cuh"
#include "cuda/timing.cuh"
#include "support/bytes.hpp"
#include "support/flops.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

/// Throws unless the steps, one after another, give the model's logits to the last bit, and count its operations.
template <config C>
void verify(network_steps<C>& steps, model<C, cuda::context<>>& net, int batch) {
  std::vector<float> got(std::size_t(batch) * C.classes), want(got.size());
  cuda::device_memory const logits{want.size() * sizeof(float)};
  net.forward_device(steps.input(), batch, reinterpret_cast<float*>(logits.data()), steps.stream().get());
  steps.run();
  steps.stream().synchronize();
  cuda::check(cudaMemcpy(got.data(), steps.logits(), logits.size(), cudaMemcpyDeviceToHost), "logits");
  cuda::check(cudaMemcpy(want.data(), logits.data(), logits.size(), cudaMemcpyDeviceToHost), "logits");
  if (std::any_of(want.begin(), want.end(), [](float v) { return !(v - v == 0); }))
    throw std::runtime_error{"the model's logits are not finite"};
  if (got != want) throw std::runtime_error{"the operations do not give the model's logits"};
  double flops = 0, bytes = 0;
  for (network_step const& s : steps.steps()) flops += s.times * s.flops, bytes += s.times * s.bytes;
  auto const same = [](double a, double b) { return std::abs(a - b) < 1e-9 * b; };
  if (!same(flops, forward_flops<C>() * batch) || !same(bytes, evaluation_bytes<C>{double(batch)}.total()))
    throw std::runtime_error{"the operations do not count the model's floating-point operations and bytes"};
}

template <config C>
model<C, cuda::context<>> random_network(int batch) {
  model<C, cuda::context<>> net{batch};
  fill_random<C>(net.state().data());
  return net;
}

template <config C>
void check(int batch) {
  network_steps<C> steps{batch};
  auto net = random_network<C>(batch);
  verify<C>(steps, net, batch);
}

/// The least time in which the device can do it: the longer of its bytes and its products.
double roofline_us(network_step const& s, ceilings const& c) {
  return std::max(s.bytes / c.copy, s.flops / c.product) * 1e6;
}

template <config C>
void run(char const* name, int batch, ceilings const& c) {
  network_steps<C> steps{batch};
  auto net = random_network<C>(batch);
  verify<C>(steps, net, batch);
  std::printf("\n%s, bf16, batch %d\n\n", name, batch);
  std::printf("| operation | times | us each | MB | GFLOP | TB/s | of copy | TFLOP/s | of product | roofline us |\n");
  std::printf("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  double sum = 0, floor = 0;
  for (network_step const& s : steps.steps()) {
    double const us = median_us(steps.stream(), s.run), roof = roofline_us(s, c);
    std::printf("| %s | %d | %.1f | %.2f | %.3f | %.2f | %.0f %% | %.1f | %.0f %% | %.1f |\n", s.name.c_str(), s.times,
                us, s.bytes / 1e6, s.flops / 1e9, s.bytes / us / 1e6, 100 * s.bytes / us * 1e6 / c.copy,
                s.flops / us / 1e6, 100 * s.flops / us * 1e6 / c.product, roof);
    std::fflush(stdout);
    sum += s.times * us;
    floor += s.times * roof;
  }
  random_array<float> const logits{std::size_t(batch) * C.classes};
  double const whole = median_replay_us(
      steps.stream(), [&] { net.forward_device(steps.input(), batch, logits.data(), steps.stream().get()); });
  std::printf("| sum of all | | %.1f | | %.3f | | | %.1f | %.0f %% | %.1f |\n", sum, forward_flops<C>() * batch / 1e9,
              forward_flops<C>() * batch / sum / 1e6, 100 * forward_flops<C>() * batch / sum * 1e6 / c.product, floor);
  std::printf("| the network, one graph | | %.1f | | | | | | | %.0f %% of it |\n", whole, 100 * floor / whole);
  std::fflush(stdout);
}

/// What a kernel takes that does nothing.
__global__ void __launch_bounds__(384) empty_kernel() {
  cuda::detail::let_next_start();
  cuda::detail::wait_for_previous();
}

/// The chain's floor: 128 blocks of 384 threads that do nothing, one launch behind the other.
void print_empty() {
  cuda::stream const s;
  auto const us = [&](bool early) {
    cuda::detail::launch_shape const shape{128, 384, 0, early};
    auto const work = [&] {
      for (int i = 0; i < 50; ++i) cuda::detail::launch("empty", empty_kernel, shape, s.get());
    };
    return median_us(s, work) / 50;
  };
  std::printf("\nA kernel that does nothing: %.2f us, early %.2f us\n", us(false), us(true));
}

/// Each kind of operation alone, with the next one started early, and what the chain takes longer with it twice, and
/// less without it; both by the number of times. A mixer's core that comes alone, a second time, or without the way
/// into it, convolves for itself: "without" is its time in the network, and "twice" that of the way into it.
template <config C>
void chain(char const* name, int batch) {
  network_steps<C> steps{batch, true};
  auto net = random_network<C>(batch);
  verify<C>(steps, net, batch);
  auto const replay = [&](auto const& times) {
    cuda::graph const g{steps.stream(), [&] { steps.run_each(times); }};
    return median_replay_us(steps.stream(), [&] { g.launch(steps.stream().get()); });
  };
  double const whole = replay([](std::string const&) { return 1; });
  std::printf("\n%s, bf16, batch %d: %.1f us\n\n", name, batch, whole);
  std::printf("| operation | times | us alone | us in the chain: twice | without |\n|---|---:|---:|---:|---:|\n");
  for (network_step const& s : steps.steps()) {
    auto const with = [&](int n) { return replay([&](std::string const& other) { return other == s.name ? n : 1; }); };
    std::printf("| %s | %d | %.2f | %.2f | %.2f |\n", s.name.c_str(), s.times, median_us(steps.stream(), s.run),
                (with(2) - whole) / s.times, (whole - with(0)) / s.times);
    std::fflush(stdout);
  }
}

void print_chains() {
  print_device();
  print_empty();
  for (int const batch : {1, 2, 8, 16}) chain<tiny>("Tiny", batch);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 1 && std::strcmp(argv[1], "--check") == 0) {
      check<five_layers(tiny)>(1);
      std::puts("the operations give the model's logits");
      return 0;
    }
    if (argc > 1 && std::strcmp(argv[1], "--chain") == 0) {
      print_chains();
      return 0;
    }
    ceilings const c = print_device();
    std::puts(
        "Bytes are those of operands, results and weights, each once; FLOPs as bench/support/flops.hpp counts them;");
    std::puts("the roofline is the longer of bytes / copy and FLOPs / product.");
    for (int const batch : {256, 1}) run<tiny>("Tiny", batch, c);
    for (int const batch : {256, 1}) run<small>("Small", batch, c);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
