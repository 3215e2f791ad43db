/// @file
/// A network with random weights and a micro-batch, for benchmarks.
#pragma once

#include <dm2/cuda/step_engine.cuh>

#include "cuda/timing.cuh"
#include "support/random_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

namespace dm2::bench {

/// Random pictures, labels and label maps of 18 x 18 points.
template <config C>
batch random_batch(int count, unsigned seed = 7) {
  std::mt19937 engine{seed};
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

/// A network with random weights, its micro-batch on the device, and what a step ends with.
template <config C, cuda::precision P>
struct training {
  static constexpr int accumulate = 4;
  static constexpr std::size_t extent = state_extent<C>;
  cuda::training_network<C, P> net;
  cuda::training_rounds<C, P> rounds;
  cuda::training_rule<C, P> rule;
  cuda::training_input in;
  cuda::token_loss_options options;
  std::int64_t steps = 0;

  explicit training(int count)
      : net{count},
        rounds{net, one_process(), accumulate},
        rule{net, rounds, optimizer_options{}, accumulate, 1},
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
  void micro_batch() {
    rounds.before_forward();
    forward();
    rounds.after_forward();
    loss();
    backward();
  }
  /// A whole step from `work`, a micro-batch's graph; waits for the result of the one before.
  void step(cuda::graph const& work) {
    rule.begin(++steps);
    for (std::size_t i = 0; i < accumulate; ++i) {
      work.launch(net.stream().get());
      rule.finish_round(1, i);
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

}  // namespace dm2::bench
