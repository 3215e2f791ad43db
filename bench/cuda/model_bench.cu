// Whole networks on the GPU: pictures a second and milliseconds at every batch, and memory.
#include <dm2/cuda/model.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"
#include "support/random_model.hpp"

#include <cstdint>
#include <cstdio>
#include <exception>

namespace {

using namespace dm2;
using namespace dm2::bench;

template <config C, cuda::precision P>
void run(char const* name, std::initializer_list<int> batches) {
  using M = model<C, cuda::context<P>>;
  constexpr float mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
  cuda::stream const s;
  for (int const batch : batches) {
    M net{batch};
    fill_random<C>(net.state().data());
    random_array<std::uint8_t> const pictures{std::size_t(batch) * M::pixels};
    random_array<float> const logits{std::size_t(batch) * M::classes};
    auto const input = M::bytes_type::normalised(pictures.data(), mean, deviation);
    double const us = median_replay_us(s, [&] { net.forward_device(input, batch, logits.data(), s.get()); });
    std::printf("| %s | %d | %.3f | %.0f | %.0f |\n", name, batch, us / 1e3, batch / us * 1e6,
                double(net.bytes()) / 1e6);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char**) {
  try {
    print_device();
    std::printf("| network | batch | ms | pictures/s | device MB |\n|---|---:|---:|---:|---:|\n");
    run<tiny, cuda::precision::bf16>("Tiny bf16", {1, 8, 64, 256, 1024});
    if (argc > 1) return 0;
    run<small, cuda::precision::bf16>("Small bf16", {1, 8, 64, 256, 1024});
    run<tiny, cuda::precision::fp16>("Tiny fp16", {256});
    run<tiny, cuda::precision::tf32>("Tiny tf32", {256});
    run<tiny, cuda::precision::fp32>("Tiny fp32", {1, 256});
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
