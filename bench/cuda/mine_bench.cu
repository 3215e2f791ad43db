// The small model of docs/using.md: inference by operation, training, and the kernels of project_add_norm.
#include <dm2/cuda/project_add_norm.cuh>

#include "cuda/device_report.cuh"
#include "cuda/network_steps.cuh"
#include "cuda/timing.cuh"
#include "cuda/training_case.cuh"

#include <cstddef>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

using bf16 = __nv_bfloat16;
constexpr auto numbers = cuda::precision::bf16;
constexpr config mine{
    .image = {128, 128}, .patch = 8, .depth = 12, .dim = 96, .classes = 10, .headdim = 24, .attn_layers = layers(5)};

/// Throws unless the rows are finite and no farther apart than rounding to bfloat16 leads.
void compare(random_array<bf16> const& got, random_array<bf16> const& want, std::size_t n) {
  std::vector<bf16> a(n), b(n);
  cuda::check(cudaMemcpy(a.data(), got.data(), n * sizeof(bf16), cudaMemcpyDeviceToHost), "result");
  cuda::check(cudaMemcpy(b.data(), want.data(), n * sizeof(bf16), cudaMemcpyDeviceToHost), "result");
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double const x = double(__bfloat162float(a[i])), y = double(__bfloat162float(b[i]));
    apart += (x - y) * (x - y), size += y * y;
  }
  if (!(apart < 4e-5 * size)) throw std::runtime_error{"the kernels of project_add_norm differ"};
}

/// Between two mixers, by a Hopper's kernel and by that of other devices.
void join(int batch) {
  namespace room = cuda::detail::project_add_norm;
  constexpr int D = mine.dim, K = 2 * sizes<mine>::d_inner, N = sizes<mine>::projected;
  using tensor = room::tensor_form<bf16, D, K, N, 0>;
  cuda::device_properties const device{cuda::current_device()};
  if (!room::hopper_runs<bf16, D, K, N, 0>(device)) return;
  std::size_t const count = std::size_t(batch) * sizes<mine>::length;
  random_array<bf16> const g{count * K}, out{std::size_t(D) * K, 0.05f}, in{std::size_t(N) * D, 0.05f};
  random_array<bf16> const one{count * N}, other{count * N};
  random_array<float> const before{count * D}, after{count * D}, norm{std::size_t(D)};
  cuda::stream const s;
  room::arguments<bf16> p{.g = g.data(), .out = out.data(), .before = before.data(), .after = after.data()};
  p.norm = norm.data(), p.in = in.data(), p.y = one.data(), p.count = int(count), p.eps = 1e-5f;
  double const hopper = median_us(s, [&] {
    room::launch_hopper<room::hopper_traits<bf16, D, K, N, 0>>(p, device.multiprocessors, s.get(), false);
  });
  p.y = other.data();
  cuda::detail::launch_shape const shape{unsigned((p.count + tensor::rows - 1) / tensor::rows), tensor::threads,
                                         std::size_t(tensor::bytes)};
  double const plain =
      median_us(s, [&] { cuda::detail::launch("project_add_norm", room::tensor_kernel<tensor>, shape, s.get(), p); });
  compare(one, other, count * N);
  std::printf("\nproject_add_norm, %d rows, %d to %d to %d: wgmma %.1f us, mma %.1f us\n", p.count, K, D, N, hopper,
              plain);
}

void inference(int batch) {
  network_steps<mine, numbers> steps{batch};
  double const whole = median_us(
      steps.stream(), [&] { steps.run(); }, 200e3);
  std::printf("\nInference, %d pictures: %.1f us, %.0f pictures/s\n", batch, whole, batch / whole * 1e6);
  std::printf("\n| operation | times | us each |\n|---|---:|---:|\n");
  for (network_step const& step : steps.steps())
    std::printf("| %s | %d | %.1f |\n", step.name.c_str(), step.times, median_us(steps.stream(), step.run));
}

/// Forward, loss and backward.
void train(int batch) {
  training<mine, numbers> t{batch};
  cuda::stream const& s = t.net.stream();
  clear(t.net.ctx(), t.net.gradients(), t.extent);
  cuda::graph const micro{s, [&] { t.micro_batch(); }};
  double const us = median_replay_us(s, [&] { micro.launch(s.get()); });
  t.step(micro);
  t.step(micro);  // reads the first one's losses
  std::printf("\nTraining, %d pictures: %.1f us, %.0f pictures/s\n", batch, us, batch / us * 1e6);
}

}  // namespace

int main() {
  try {
    print_device();
    inference(256);
    std::fflush(stdout);
    join(256);
    train(196);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
