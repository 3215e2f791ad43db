// Training on the GPU: a micro-batch and its parts, a whole step, memory; its operations alone are kernels_bench's.
// `--once` runs one micro-batch of Tiny and nothing else, for a profiler.
#include <dm2/cuda/step_engine.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"
#include "cuda/training_case.cuh"

#include <cstdio>
#include <cstring>
#include <exception>
#include <string_view>

namespace {

using namespace dm2;
using namespace dm2::bench;

void row(char const* network, char const* part, int pictures, double us) {
  std::printf("| %s | %s | %.3f | %.0f |\n", network, part, us / 1e3, pictures / us * 1e6);
  std::fflush(stdout);
}

template <config C, cuda::precision P>
void run(char const* name, int count) {
  training<C, P> t{count};
  auto const& s = t.net.stream();
  double const forward = median_us(s, [&] { t.forward(); });
  double const with_loss = median_us(s, [&] { t.forward(), t.loss(); });
  double const whole = median_us(s, [&] { t.micro_batch(); });
  row(name, "forward", count, forward);
  row(name, "loss, from label maps", count, with_loss - forward);
  row(name, "backward", count, whole - with_loss);
  row(name, "forward + loss + backward", count, whole);
  clear(t.net.ctx(), t.net.gradients(), t.extent);
  cuda::graph const micro{s, [&] { t.micro_batch(); }};
  double const step = median_replay_us(
      s, [&] { t.step(micro); }, 2e6);
  row(name, "whole step, 4 micro-batches, Lion, average", 4 * count, step);
  row(name, "of that, what ends it", 4 * count, step - 4 * whole);
  std::printf("| %s | device memory, MB | %.0f | |\n", name,
              double(t.net.bytes() + t.rounds.bytes() + t.rule.bytes_held() + t.in.bytes()) / 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    using enum cuda::precision;
    if (argc > 1 && std::string_view{argv[1]} == "--once") {
      training<tiny, bf16> t{256};
      t.micro_batch();
      t.net.stream().synchronize();
      return 0;
    }
    print_device();
    std::printf("| network | part | ms | pictures/s |\n|---|---|---:|---:|\n");
    run<tiny, bf16>("Tiny bf16, batch 256", 256);
    run<small, bf16>("Small bf16, batch 128", 128);
    run<small, bf16>("Small bf16, batch 256", 256);
    run<tiny, fp32>("Tiny fp32, batch 64", 64);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
