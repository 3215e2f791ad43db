/// @file
/// A small model's flat buffers on host and device, for tests of the optimizer on the device.
#pragma once

#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/cuda/training/update_lines.cuh>
#include <dm2/model/model.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>

#include "cuda/support/device_array.cuh"
#include "cuda/token_label_loss/label_map_case.cuh"
#include "support/configurations.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2::test {

/// Its pairs are of two lines.
inline constexpr config many_heads{.image = {8, 8},
                                   .patch = 4,
                                   .stem_width = 3,
                                   .depth = 1,
                                   .dim = 48,
                                   .classes = 4,
                                   .headdim = 1,
                                   .d_state = 2,
                                   .attn_layers = {},
                                   .attn_heads = 1,
                                   .attn_head_dim = 4,
                                   .attn_rotary = 2};

/// The CPU's optimizer and average in T, from numbers that T = float holds.
template <config C, class T>
struct host_run {
  using context = cpu::context<T>;
  model<C, context> net{1, context{2}};
  optimizer<C, context> rule;
  ema<C, context> average;
  std::vector<T> gradients = std::vector<T>(state_extent<C>);

  explicit host_run(optimizer_options const& o, double decay) : rule{o}, average{net, decay} {
    random_source random{23};
    fill(net.state(), random, 1, [](entry_kind) { return true; });
    for (std::size_t i = 0; i < parameter_table<C>.size(); ++i)  // pairs begin as one
      if (o.shared_pairs && dm2::detail::opens_pair(parameter_table<C>[i].name))
        std::copy_n(net.state().data() + parameter_table<C>[i].offset, parameter_table<C>[i].size,
                    net.state().data() + parameter_table<C>[i + 1].offset);
    fill(average.state(), random, 1, [](entry_kind) { return true; });
    draw_gradients(1);
  }
  template <class Wanted>
  static void fill(std::span<T> to, random_source& random, double scale, Wanted const& wanted) {
    for (parameter_entry const& e : parameter_table<C>) {
      if (e.kind == entry_kind::counter || !wanted(e.kind)) continue;
      auto const numbers = random.normal<float>(e.size, scale);
      for (std::size_t i = 0; i < e.size; ++i) to[e.offset + i] = T(numbers[i]);
    }
  }
  void draw_gradients(unsigned seed) {
    random_source random{seed};
    fill(gradients, random, 1e-2, [](entry_kind k) { return k == entry_kind::parameter; });
  }
  double step(double lr) {
    auto copy = gradients;  // clipping scales them
    double const norm = rule.step(net, copy, lr);
    average.step(net);
    return norm;
  }
};

/// The same buffers on the device.
template <config C, cuda::precision P>
struct device_run {
  using E = cuda::element<P>;
  static constexpr std::size_t n = state_extent<C>;
  optimizer_options rule;
  cuda::context<P> ctx;
  device_array<float> weights, gradients, first, second, average;
  device_array<E> rounded{n};
  device_records<std::uint16_t> lines;
  device_records<cuda::step_scalars> scalars{{cuda::step_scalars{}}};
  device_records<cuda::gradient_measure> measure{{{NAN, NAN}}};
  device_records<cuda::finite_guard> guard{{cuda::finite_guard{}}};
  parameter_groups groups{parameter_table<C>, rule};
  std::vector<std::uint8_t> of_lines = cuda::line_groups<C>(groups, rule);
  device_records<std::uint8_t> line_groups{of_lines.empty() ? std::vector<std::uint8_t>(1) : of_lines};
  device_records<cuda::group_rates> rates{std::vector<cuda::group_rates>(groups.groups().size())};
  bool clear = true;

  template <class T>
  explicit device_run(host_run<C, T>& host)
      : rule{host.rule.options()},
        weights{copy(host.net.state())},
        gradients{host.gradients},
        first{copy(host.rule.momentum())},
        second{host.rule.second_moment().empty() ? std::vector<T>(n) : copy(host.rule.second_moment())},
        average{copy(host.average.state())},
        lines{cuda::update_lines<C>(rule)} {}

  template <class T>
  static std::vector<T> copy(std::span<T> x) {
    return {x.begin(), x.end()};
  }
  void set(std::int64_t step, double lr, double decay) {
    scalars.write({cuda::make_step_scalars(rule, step, lr, decay)});
    std::vector<cuda::group_rates> own;
    for (parameter_group const& g : groups.groups())
      own.push_back(cuda::make_group_rates(rule, step, lr, g.scale, g.decay));
    rates.write(own);
  }
  /// Enqueues a step with the scalars that are set.
  void run(double scale = 1) {
    cuda::measure_gradients(ctx, gradients.data(), lines.data(), n,
                            {rule.clip_norm, scale, {guard.data(), &scalars.data()->step, 0}}, measure.data());
    cuda::update_buffers<E> const buffers{weights.data(), gradients.data(), first.data(),
                                          second.data(),  average.data(),   rounded.data()};
    cuda::grouped_lines grouped;
    if (!of_lines.empty()) grouped = {line_groups.data(), rates.data()};
    cuda::optimizer_step(ctx, rule, buffers, {lines.data(), grouped}, n, scalars.data(), measure.data(), guard.data(),
                         clear);
  }
};

/// The largest |got - want| over the spacing of floats at the larger of |want| and |from|: what it is the small
/// difference of. NaN gives infinity.
template <class Want>
double spacings(std::vector<double> const& got, Want const& want, std::vector<double> const& from) {
  double most = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    float const size = float(std::max(std::abs(double(want[i])), std::abs(from[i])));
    double const spacing = std::max(double(std::nextafter(size, INFINITY)) - double(size), 1e-44);
    double const off = std::abs(got[i] - double(want[i])) / spacing;
    if (!(off <= most)) most = off == off ? off : INFINITY;
  }
  return most;
}

}  // namespace dm2::test
