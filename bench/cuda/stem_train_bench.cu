// The stem in training on tensor cores, each kernel alone, at Tiny's and Small's size.
#include <dm2/cuda/stem_train.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
using namespace dm2::cuda::detail;
using T = __nv_bfloat16;

constexpr stem_shape stem_of(int dim) { return {224, 224, 3, 64, 16, dim}; }

/// A stem with random parameters, and what its passes read and write.
template <stem_shape S>
struct stem_state {
  static constexpr std::size_t numbers = std::size_t(S.hidden) * S.channels * 49 + 18 * S.hidden * S.hidden +
                                         6 * S.hidden + std::size_t(S.dim) * S.hidden * S.patch * S.patch / 4 + S.dim;
  random_array<float> parameters{numbers, 0.1f}, gradients{numbers}, statistics{6 * S.hidden, 0.1f, 1}, picture;
  random_array<T> grid, dgrid;
  cuda::device_memory memory;
  arena place;
  cuda::stem_saved<S, T> saved;

  explicit stem_state(int batch)
      : picture{std::size_t(batch) * S.channels * S.height * S.width},
        grid{std::size_t(batch) * S.tokens() * S.dim},
        dgrid{std::size_t(batch) * S.tokens() * S.dim, 1e-3f},
        memory{planned_bytes<cuda::stem_saved<S, T>>(batch)},
        place{memory.data(), memory.size()},
        saved{place, batch} {}

  template <class U>
  static stem_parameters<S, U, space::device> view(float* at) {
    stem_parameters<S, U, space::device> p;
    auto const take = [&at](auto& b) {
      b.data = at;
      at += b.size;
    };
    take(p.conv1);
    for (auto& b : p.conv) take(b);
    for (auto& b : p.bn_weight) take(b);
    for (auto& b : p.bn_bias) take(b);
    take(p.proj);
    take(p.proj_bias);
    return p;
  }
  [[nodiscard]] stem_statistics<S, float, space::device> running() const {
    stem_statistics<S, float, space::device> r;
    for (std::size_t i = 0; i < 3; ++i)
      r.mean[i].data = statistics.data() + i * S.hidden, r.var[i].data = statistics.data() + (3 + i) * S.hidden;
    return r;
  }
};

/// Planes of a convolution's size that a kernel moves, and multiply-adds a picture in millions.
struct cost {
  double planes, products;
};

void row(char const* name, double us, cost c, int batch, ceilings const& limits) {
  double const bytes = c.planes * batch * 112 * 112 * 64 * 2, flops = 2e6 * c.products * batch;
  std::printf("| %s | %.1f | %.2f | %.0f | %.1f |\n", name, us, bytes / us / 1e6, flops / us / 1e6,
              std::max(bytes / limits.copy, flops / limits.product) * 1e6);
  std::fflush(stdout);
}

template <int Dim>
void run(char const* name, int batch, ceilings const& limits) {
  constexpr stem_shape S = stem_of(Dim);
  stem_state<S> s{batch};
  cuda::stream const stream;
  cuda::context<> ctx{stream.get()};
  auto const p = stem_state<S>::template view<float const>(s.parameters.data());
  auto const grad = stem_state<S>::template view<float>(s.gradients.data());
  auto const running = s.running();
  float const* const picture = s.picture.data();
  rows<T, Dim, space::device> const grid{s.grid.data(), std::size_t(batch) * S.tokens()};
  rows<T const, Dim, space::device> const dgrid{s.dgrid.data(), grid.count};
  std::printf("\n%s, bf16, batch %d\n\n| | us | TB/s | TFLOP/s | roofline us |\n|---|---:|---:|---:|---:|\n", name,
              batch);
  double const forward = median_us(stream, [&] { cuda::stem_forward_train(ctx, picture, p, running, grid, s.saved); });
  double const backward =
      median_us(stream, [&] { cuda::stem_backward(ctx, picture, p, s.saved, dgrid, grad, nullptr); });
  std::vector<T> first(std::size_t{64} * Dim);
  cuda::check(cudaMemcpy(first.data(), grid.data, first.size() * sizeof(T), cudaMemcpyDeviceToHost), "grid");
  if (std::any_of(first.begin(), first.end(), [](T v) { return !std::isfinite(to_float(v)); }))
    throw std::runtime_error{"the grid is not finite"};

  std::size_t const bytes = planned_bytes<stem_train::tensor_scratch<S, T>>(ctx.device(), batch) +
                            planned_bytes<stem_train::tensor_gradients<S, T>>(ctx.device(), batch);
  cuda::device_memory const memory{bytes};
  arena place{memory.data(), bytes};
  stem_train::tensor_scratch<S, T> const scratch{place, ctx.device(), batch};
  stem_train::tensor_gradients<S, T> const d{place, ctx.device(), batch};
  auto const reader = reader_of<stem::geometry<S>>(picture);
  using reader_type = std::remove_const_t<decltype(reader)>;
  stem_train::tensor_forward<S, T, reader_type> const f{stream.get(), ctx.device(), p, s.saved, scratch, batch};
  stem_train::tensor_backward<S, T, reader_type> const b{stream.get(), ctx.device(), p, s.saved, d, batch};
  auto const time = [&](char const* what, cost c, auto const& work) {
    row(what, median_us(stream, work), c, batch, limits);
  };
  double const patches = 196e-6 * Dim * 4096;
  time("weights", {0, 0}, [&] { f.arrange(); });
  time("7 x 7", {1.38, 118}, [&] { f.first(reader, running); });
  time("3 x 3, second", {2, 462.4}, [&] { f.template inner<false>(1, stem_train::tile_order::upwards, running); });
  time("3 x 3, third", {2, 462.4}, [&] { f.template inner<true>(2, stem_train::tile_order::downwards, running); });
  time("projection", {1, patches}, [&] { f.project(s.grid.data()); });
  row("forward", forward, {6.38, 1042.8 + patches}, batch, limits);
  time("weights", {0, 0}, [&] { b.arrange(); });
  time("projection: weights", {1, patches}, [&] { b.project_weights(dgrid.data, grad); });
  time("projection: input", {2, patches}, [&] { b.project_input(dgrid.data, grad); });
  time("3 x 3, third: weights", {4, 462.4}, [&] { b.template weights<2, true>(d.dz[0], grad); });
  time("3 x 3, third: input", {3, 462.4}, [&] { b.template input<2, true>(d.dz[0], d.dz[1], grad); });
  time("3 x 3, second: weights", {4, 462.4}, [&] { b.template weights<1, false>(d.dz[1], grad); });
  time("3 x 3, second: input", {3, 462.4}, [&] { b.template input<1, false>(d.dz[1], d.dz[0], grad); });
  time("7 x 7: weights", {2.38, 118}, [&] { b.first_weights(reader, grad); });
  row("backward", backward, {19.38, 1967.6 + 2 * patches}, batch, limits);
}

}  // namespace

int main() {
  try {
    ceilings const c = print_device();
    std::puts("The roofline is the longer of bytes / copy and FLOPs / product; bytes are whole planes, each once.");
    run<192>("Tiny", 256, c);
    run<384>("Small", 256, c);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
