// Training on the GPU: a micro-batch and its parts, the optimizer, a whole step, memory; the scan alone, both ways.
// `--once` runs one micro-batch of Tiny and nothing else, for a profiler.
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/cuda/step_engine.cuh>
#include <dm2/cuda/training/update_lines.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"
#include "support/random_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

/// Random pictures, labels and label maps of 18 x 18 points.
template <config C>
batch random_batch(int count) {
  std::mt19937 engine{7};
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> label{0, C.classes - 1};
  batch b;
  b.height = C.image.height;
  b.width = C.image.width;
  b.resize(count, true);
  std::size_t const period = std::min<std::size_t>(b.pictures.size(), 1 << 20);
  for (std::size_t i = 0; i < b.pictures.size(); ++i)
    b.pictures[i] = i < period ? normal(engine) : b.pictures[i - period];
  for (std::size_t i = 0; i < std::size_t(count); ++i) {
    b.labels[i] = label(engine);
    b.crops[i] = {0.1, 0.2, 0.6, 0.7};
    b.maps[i] = {18, 18, std::vector<float>(2 * 5 * 18 * 18)};
    for (std::size_t k = 0; k < b.maps[i].values.size(); ++k)
      b.maps[i].values[k] = k < b.maps[i].values.size() / 2 ? 5 + normal(engine) : float(label(engine));
  }
  return b;
}

void row(char const* network, char const* part, int pictures, double us) {
  std::printf("| %s | %s | %.3f | %.0f |\n", network, part, us / 1e3, pictures / us * 1e6);
  std::fflush(stdout);
}

/// A network with random weights, its micro-batch on the device, and what a step ends with.
template <config C, cuda::precision P>
struct training {
  static constexpr int accumulate = 4;
  static constexpr std::size_t extent = state_extent<C>;
  cuda::training_network<C, P> net;
  cuda::training_rule<C, P> rule;
  cuda::training_input in;
  cuda::token_loss_options options;
  std::int64_t steps = 0;

  explicit training(int count)
      : net{count},
        rule{net, optimizer_options{}, accumulate, 1},
        in{count,
           std::size_t(sizes<C>::pixels),
           {sizes<C>::stem.grid_height(), sizes<C>::stem.grid_width(), 0.1, crop_convention::published}} {
    std::vector<float> state(extent);
    fill_random<C>(state.data());
    copy(net.ctx(), state.data(), extent, net.state());
    copy(net.ctx(), state.data(), extent, rule.average());
    net.round_copies();
    in.fill(random_batch<C>(count), {2, 9, 3, 8});
    in.upload(net.stream().get());
    options.scale = 1.0 / accumulate;
    options.check = rule.check_of();
    net.ctx().plan([&] { micro_batch(); });
    net.stream().synchronize();
  }
  void forward() { net.forward(in.pictures(), in.box()); }
  void loss() { net.loss(in.maps(), in.box(), rule.sums(), options); }
  void backward() { net.backward(in.pictures(), in.box(), nullptr); }
  void micro_batch() { forward(), loss(), backward(); }
  /// A whole step from `work`, a micro-batch's graph; waits for the result of the one before.
  void step(cuda::graph const& work) {
    rule.begin(++steps);
    for (std::size_t i = 0; i < accumulate; ++i) {
      work.launch(net.stream().get());
      rule.keep_loss(i);
    }
    rule.step(steps, 1e-4, 0.9999);
    if (steps > 1) static_cast<void>(rule.ready(true)), check(rule.read(accumulate));
  }
  static void check(cuda::step_outcome const& o) {
    for (double const l : o.losses)
      if (!std::isfinite(l)) throw std::runtime_error{"a loss is not finite"};
    if (o.bad != cuda::bad_number::none) throw std::runtime_error{"a gradient is not finite"};
  }
};

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
              double(t.net.bytes() + t.rule.bytes_held() + t.in.bytes()) / 1e6);
}

/// One block's backward at the widths of C.
template <config C, cuda::precision P, class Block>
void run_core(char const* name, char const* part, int layer, int count) {
  using E = cuda::element<P>;
  cuda::stream const s;
  cuda::context<P> ctx{s.get()};
  std::size_t const n = std::size_t(count) * sizes<C>::length;
  std::vector<float> host(state_extent<C>);
  fill_random<C>(host.data());
  cuda::device_memory const state{host.size() * sizeof(float)}, gradients{host.size() * sizeof(float)};
  cuda::check(cudaMemcpy(state.data(), host.data(), state.size(), cudaMemcpyHostToDevice), "state");
  random_array<E> const wide{n * Block::wide}, dinner{n * Block::inner};
  random_array<E> const inner{n * Block::inner}, dwide{n * Block::wide};
  network_view<C, float const, space::device> const net{reinterpret_cast<float const*>(state.data())};
  network_view<C, float, space::device> const grad{reinterpret_cast<float*>(gradients.data())};
  rows<E const, Block::wide, space::device> const x{wide.data(), n};
  auto const forward = [&] { Block::core(ctx, net, layer, x, rows<E, Block::inner, space::device>{inner.data(), n}); };
  auto const backward = [&] {
    Block::core_backward(ctx, net, layer, x, rows<E const, Block::inner, space::device>{dinner.data(), n},
                         rows<E, Block::wide, space::device>{dwide.data(), n}, grad);
  };
  row(name, (std::string{part} + ", forward").c_str(), count, median_us(s, forward));
  row(name, (std::string{part} + ", backward").c_str(), count, median_us(s, backward));
}

template <config C, cuda::precision P>
void run_optimizer(char const* name) {
  using E = cuda::element<P>;
  constexpr std::size_t n = state_extent<C>;
  cuda::stream const s;
  cuda::context<P> ctx{s.get()};
  random_array<float> const p{n}, g{n}, m{n}, a{n};
  random_array<E> const copies{n};
  auto const lines = cuda::update_lines<C>(false);
  cuda::device_memory const on_device{lines.size() * sizeof(lines[0])}, scalars{sizeof(cuda::step_scalars)};
  cuda::check(cudaMemcpy(on_device.data(), lines.data(), on_device.size(), cudaMemcpyHostToDevice), "lines");
  auto const host = cuda::make_step_scalars({}, 1, 1e-4, 0.9999);
  cuda::check(cudaMemcpy(scalars.data(), &host, sizeof host, cudaMemcpyHostToDevice), "scalars");
  cuda::update_buffers<E> const buffers{p.data(), g.data(), m.data(), nullptr, a.data(), copies.data()};
  double const us = median_us(s, [&] {
    cuda::optimizer_step(ctx, optimizer_options{}, buffers, reinterpret_cast<std::uint16_t const*>(on_device.data()), n,
                         reinterpret_cast<cuda::step_scalars const*>(scalars.data()), nullptr, nullptr, true);
  });
  std::printf("| %s | Lion, average, rounded copy, clearing: %.2f TB/s | %.3f | |\n", name, 34.0 * n / us / 1e6,
              us / 1e3);
}

/// The scan alone, forward and backward: one direction.
template <mixer_shape M>
void run_scan(int count, int length) {
  using T = __nv_bfloat16;
  constexpr int inner = M.d_inner(), state = M.groups * M.d_state;
  cuda::stream const s;
  cuda::context<> ctx{s.get()};
  std::size_t const n = std::size_t(count) * std::size_t(length), heads = M.heads;
  random_array<T> const x{n * inner}, b{n * state, 0.1f}, c{n * state, 0.1f}, y{n * inner}, dy{n * inner};
  random_array<T> const dx{n * inner}, db{n * state}, dc{n * state};
  random_array<float> const dt{n * heads, 0.01f, 0.05f}, a{heads, 0.1f, -1.f}, d{heads};
  random_array<float> const ddt{n * heads}, da{heads}, dd{heads};
  auto const wide = [&](auto const& p) { return rows<T, inner, space::device>{p.data(), n}; };
  auto const narrow = [&](auto const& p) { return rows<T, state, space::device>{p.data(), n}; };
  auto const steps = [&](auto const& p) { return rows<float, M.heads, space::device>{p.data(), n}; };
  auto const each = [&](auto const& p) { return block<float, space::device, M.heads>{p.data()}; };
  cuda::ssd_input<M, T> const in{wide(x), steps(dt), each(a), narrow(b), narrow(c), each(d), length};
  cuda::ssd_gradient<M, T> const grad{wide(dx), steps(ddt), each(da), narrow(db), narrow(dc), each(dd)};
  std::string const name = "scan, B " + std::to_string(count) + ", L " + std::to_string(length);
  double const forward = median_us(s, [&] { cuda::ssd(ctx, in, wide(y)); });
  double const backward = median_us(s, [&] { cuda::ssd_backward(ctx, in, wide(dy), grad); });
  row(name.c_str(), "forward", count, forward);
  row(name.c_str(), "forward + backward", count, forward + backward);
}

template <config C>
void run_scans() {
  run_scan<sizes<C>::mixer>(256, 197);
  run_scan<sizes<C>::mixer>(64, 3137);
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
    run_core<tiny, bf16, dm2::detail::mixer_block<tiny>>("Tiny bf16, batch 256", "mixer core", 0, 256);
    run_core<tiny, bf16, dm2::detail::attention_block<tiny>>("Tiny bf16, batch 256", "attention core",
                                                             std::countr_zero(tiny.attn_layers.bits), 256);
    run_optimizer<tiny, bf16>("Tiny bf16");
    run_scans<tiny>();
    run<small, bf16>("Small bf16, batch 128", 128);
    run<small, bf16>("Small bf16, batch 256", 256);
    run<tiny, fp32>("Tiny fp32, batch 64", 64);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
