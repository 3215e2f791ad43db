// Tiny at picture sizes, patches and groups beside its own, and the README's small model: pictures a second, and where
// the time goes.
#include <dm2/cuda/mixer_core.cuh>

#include "cuda/device_report.cuh"
#include "cuda/network_steps.cuh"
#include "cuda/timing.cuh"

#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;

constexpr config sized(int side, int patch = 16) {
  config c = tiny;
  c.image = {side, side};
  c.patch = patch;
  return c;
}
constexpr config grouped(int groups) {
  config c = tiny;
  c.groups = groups;
  return c;
}
constexpr config mine{
    .image = {128, 128}, .patch = 8, .depth = 12, .dim = 96, .classes = 10, .headdim = 24, .attn_layers = layers(5)};

/// Throws unless both are finite and no farther apart than rounding to T's digits leads.
template <class T>
void compare(random_array<T> const& got, random_array<T> const& want, std::size_t n) {
  std::vector<T> a(n), b(n);
  cuda::check(cudaMemcpy(a.data(), got.data(), n * sizeof(T), cudaMemcpyDeviceToHost), "result");
  cuda::check(cudaMemcpy(b.data(), want.data(), n * sizeof(T), cudaMemcpyDeviceToHost), "result");
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double const x = double(cuda::detail::to_float(a[i])), y = double(cuda::detail::to_float(b[i]));
    apart += (x - y) * (x - y), size += y * y;
  }
  if (!(apart < 4e-4 * size)) throw std::runtime_error{"the mixer core differs from the composed one"};
}

/// The mixer core as training runs it: normed, with the norms' weights. Compares with the composed one first.
template <config C, cuda::precision P>
double normed_us(int batch) {
  constexpr mixer_shape M = sizes<C>::mixer;
  constexpr int W = M.projected(), I = M.d_inner(), K = M.conv_dim();
  std::size_t const count = std::size_t(batch) * sizes<C>::length;
  cuda::stream const s;
  cuda::context<P> ctx{s.get()};
  random_array<cuda::element<P>> const in{count * W}, out{count * 2 * I};
  random_array<float> const conv{std::size_t(K * M.d_conv), 0.3f}, bias{std::size_t(K)}, norm{std::size_t(I)};
  random_array<float> const steps{std::size_t(M.heads), 1, -2}, rates{std::size_t(M.heads), 0.5f, 1},
      skip{std::size_t(M.heads)};
  mixer_direction<M, float const, space::device> d;
  d.conv.data = conv.data(), d.conv_bias.data = bias.data(), d.dt_bias.data = steps.data();
  d.a_log.data = rates.data(), d.d.data = skip.data(), d.norm.data = norm.data();
  mixer_parameters<M, float const, space::device> const p{d, d};
  rows<cuda::element<P> const, W, space::device> const zxbcdt{in.data(), count};
  rows<cuda::element<P>, 2 * I, space::device> const g{out.data(), count};
  auto const run = [&] { cuda::mixer_core<M>(ctx, zxbcdt, p, g, sizes<C>::length); };
  {
    random_array<cuda::element<P>> const want{count * 2 * I};
    run();
    cuda::detail::mixer_core::launch_general<M>(ctx, zxbcdt, p, {want.data(), count}, sizes<C>::length);
    s.synchronize();
    compare(out, want, count * 2 * I);
  }
  return median_us(s, run);
}

template <config C, cuda::precision P = bf16>
void run(char const* name, std::initializer_list<int> batches) {
  for (int const batch : batches) {
    network_steps<C, P> steps{batch};
    double const whole = median_us(
        steps.stream(), [&] { steps.run(); }, 200e3);
    double mixer = 0, attention = 0;
    for (network_step const& step : steps.steps()) {
      if (step.name == "mixer core") mixer = median_us(steps.stream(), step.run);
      if (step.name == "attention core") attention = median_us(steps.stream(), step.run);
    }
    double const rate = batch / whole * 1e6;
    std::printf("| %s | %d | %d | %.0f | %.2f | %.1f | %.1f | %.1f |\n", name, int(sizes<C>::length), batch, rate,
                rate * sizes<C>::length / 1e6, mixer, normed_us<C, P>(batch), attention);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::string const only = argc > 1 ? argv[1] : "";
    if (only.empty()) print_device();
    std::printf(
        "| network | tokens | batch | pictures/s | M tokens/s | mixer core us | normed us | attention core us |\n");
    std::printf("|---|---:|---:|---:|---:|---:|---:|---:|\n");
    run<tiny>("Tiny 224", {256, 64});
    run<sized(256)>("Tiny 256", {256});
    run<sized(384)>("Tiny 384", {64});
    run<sized(224, 8)>("Tiny 224, patch 8", {64});
    run<grouped(2)>("Tiny, groups 2", {256});
    run<mine>("mine", {256});
    if (only == "few") return 0;
    run<sized(256), fp16>("Tiny 256 fp16", {256});
    run<sized(512)>("Tiny 512", {64});
    run<grouped(4)>("Tiny, groups 4", {256});
    run<sized(1024)>("Tiny 1024", {8, 1});
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
