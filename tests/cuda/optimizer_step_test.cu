#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/optimizer_step.cuh>

#include <doctest/doctest.h>

#include "cuda/optimizer_case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

optimizer_options options(optimizer_kind kind, bool pairs, double clip = 0) {
  return {.kind = kind, .weight_decay = 0.1, .clip_norm = clip, .shared_pairs = pairs};
}

std::vector<double> larger(std::vector<double> x, std::vector<double> const& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::max(std::abs(x[i]), std::abs(y[i]));
  return x;
}

/// Three steps; each is compared with the CPU's from the same numbers, so that the errors of one do not add to the
/// next.
template <config C, cuda::precision P>
void check_steps(optimizer_options const& o) {
  using E = cuda::element<P>;
  // each move of a weight is rounded once by Lion, in a few places by AdamW; a pair moves twice
  double const allowed = (o.kind == optimizer_kind::lion ? 1 : 4) * (o.shared_pairs ? 2 : 1);
  host_run<C, float> host{o, 0.75};
  for (int t = 1; t <= 3; ++t) {
    CAPTURE(t);
    host.draw_gradients(unsigned(t));
    device_run<C, P> device{host};
    auto const before = device.weights.read(), first = device.first.read(), second = device.second.read(),
               average = larger(device.average.read(), before);
    auto const from = larger(before, std::vector<double>(before.size(), 0.01));  // a pair moves there and back
    double const norm = host.step(0.01);
    device.set(t, 0.01, 0.75);
    device.run();
    CHECK(spacings(device.weights.read(), host.net.state(), from) <= allowed);
    CHECK(spacings(device.first.read(), host.rule.momentum(), first) <= 1);
    if (o.kind == optimizer_kind::adamw) CHECK(spacings(device.second.read(), host.rule.second_moment(), second) <= 2);
    CHECK(spacings(device.average.read(), host.average.state(), average) <= 1 + allowed);
    CHECK(device.rounded.read() == rounded<E>(device.weights.read()));
    CHECK(device.gradients.read() == std::vector<double>(state_extent<C>, 0.0));
    if (o.clip_norm > 0) CHECK(device.measure.read()[0].norm == doctest::Approx(norm).epsilon(1e-6));
    CHECK(device.guard.read()[0].step == 0);
    for (auto* buffer : {&device.weights, &device.gradients, &device.first, &device.second, &device.average})
      CHECK(buffer->margins_untouched());
    CHECK(device.rounded.margins_untouched());
  }
}

template <config C>
void check_against_double(optimizer_options const& o) {
  host_run<C, double> host{o, 0.75};
  device_run<C, cuda::precision::fp32> device{host};
  device.clear = false;
  for (int t = 1; t <= 3; ++t) {
    host.step(0.01);
    device.set(t, 0.01, 0.75);
    device.run();
  }
  CHECK(relative_error(device.weights.read(), host.net.state()) < 2e-7);
  CHECK(relative_error(device.first.read(), host.rule.momentum()) < 2e-7);
  CHECK(relative_error(device.average.read(), host.average.state()) < 2e-7);
  if (o.kind == optimizer_kind::adamw) CHECK(relative_error(device.second.read(), host.rule.second_moment()) < 3e-7);
  CHECK(device.gradients.read() == std::vector<double>(host.gradients.begin(), host.gradients.end()));
}

}  // namespace

TEST_CASE_TEMPLATE("cuda optimizer_step: the CPU's step in float, to its rounding", P, in_bf16, in_fp16, in_fp32) {
  for (auto kind : {optimizer_kind::lion, optimizer_kind::adamw})
    for (bool pairs : {false, true}) {
      CAPTURE(pairs);
      check_steps<little, P::value>(options(kind, pairs));
      check_steps<many_heads, P::value>(options(kind, pairs, 0.05));
    }
}

TEST_CASE("cuda optimizer_step: several steps equal the CPU's in double") {
  for (auto kind : {optimizer_kind::lion, optimizer_kind::adamw})
    for (bool pairs : {false, true})
      for (double clip : {0.0, 0.02, 1e6}) {
        check_against_double<little>(options(kind, pairs, clip));
        check_against_double<many_heads>(options(kind, pairs, clip));
      }
}

TEST_CASE_TEMPLATE("cuda optimizer_step: groups of parameters take their own rate and decay, frozen ones stay", P,
                   in_bf16, in_fp32) {
  for (auto kind : {optimizer_kind::lion, optimizer_kind::adamw})
    for (bool pairs : {false, true})
      for (int frozen : {0, 2}) {
        CAPTURE(pairs);
        CAPTURE(frozen);
        auto o = options(kind, pairs, 0.05);
        o.tuning = {.frozen = frozen, .layer_decay = 0.5, .head_scale = 3, .no_decay = {"1d", "pos_embed"}};
        check_steps<little, P::value>(o);
        if (frozen < 2) check_steps<many_heads, P::value>(o);
      }
}

TEST_CASE("cuda optimizer_step: lines need groups only where they differ") {
  auto const groups_of = [](optimizer_options const& o) {
    return cuda::line_groups<little>(parameter_groups{parameter_table<little>, o}, o);
  };
  CHECK(groups_of({}).empty());
  CHECK(groups_of({.tuning = {.frozen = 3}}).empty());
  CHECK(groups_of({.weight_decay = 0, .tuning = {.no_decay = {"norm"}}}).empty());
  CHECK(groups_of({.tuning = {.no_decay = {"norm"}}}).size() == state_extent<little> / 64);
  CHECK_FALSE(groups_of({.tuning = {.head_scale = 2}}).empty());
}

TEST_CASE("cuda optimizer_step: statistics and parameters that nothing reads do not move, but are averaged") {
  host_run<little, float> host{options(optimizer_kind::lion, true), 0.75};
  std::fill(host.gradients.begin(), host.gradients.end(), 1.f);
  device_run<little, cuda::precision::bf16> device{host};
  auto const before = device.weights.read(), average = device.average.read();
  device.set(1, 0.1, 0.75);
  device.run();
  auto const after = device.weights.read(), averaged = device.average.read(), momentum = device.first.read();
  int still = 0;
  for (parameter_entry const& e : host.net.table()) {
    if (e.kind == entry_kind::counter) continue;
    bool const moves = e.kind == entry_kind::parameter;
    still += moves ? 0 : 1;
    for (std::size_t i = e.offset; i < e.offset + e.size; ++i) {
      CHECK((after[i] != before[i]) == moves);
      CHECK((momentum[i] != 0) == moves);
      CHECK(averaged[i] == doctest::Approx(average[i] - 0.25 * (average[i] - after[i])).epsilon(1e-6));
    }
  }
  CHECK(still == 8);
}

TEST_CASE("cuda optimizer_step: a decay of 0 makes the average the weights, to the last bit") {
  host_run<little, float> host{options(optimizer_kind::adamw, false), 0};
  device_run<little, cuda::precision::fp32> device{host};
  device.set(1, 0.1, 0);
  device.run();
  CHECK(device.average.read() == device.weights.read());
}

TEST_CASE("cuda optimizer_step: a replayed graph takes rate, decay and step from device memory") {
  auto const o = options(optimizer_kind::adamw, true, 0.05);
  host_run<little, float> host{o, 0.9};
  device_run<little, cuda::precision::bf16> one{host}, two{host};
  one.clear = two.clear = false;
  cuda::stream const stream;
  one.ctx.set_stream(stream.get());
  one.set(9, 1, 0.5);  // another step's
  one.ctx.plan([&] { one.run(); });
  cuda::graph const graph{stream, [&] { one.run(); }};
  for (int t = 1; t <= 3; ++t) {
    one.set(t, 0.1 / t, 0.9);
    graph.launch(stream.get());
    stream.synchronize();
    two.set(t, 0.1 / t, 0.9);
    two.run();
  }
  CHECK(one.weights.read() == two.weights.read());
  CHECK(one.average.read() == two.average.read());
  CHECK(one.rounded.read() == two.rounded.read());
}

TEST_CASE("cuda optimizer_step: what is not finite stops it, and is reported with its step") {
  for (double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    host_run<little, float> host{options(optimizer_kind::lion, true), 0.75};
    host.gradients[host.net.table()[0].offset] = float(bad);
    device_run<little, cuda::precision::bf16> device{host};
    auto const before = device.weights.read(), average = device.average.read();
    device.set(5, 0.1, 0.75);
    device.run();
    device.set(6, 0.1, 0.75);
    device.run();
    CHECK(device.guard.read()[0].step == 5);
    CHECK(device.guard.read()[0].what == cuda::bad_number::gradient);
    CHECK(device.weights.read() == before);
    CHECK(device.average.read() == average);
    for (double v : device.rounded.read()) CHECK(std::isnan(v));
  }
}

TEST_CASE("cuda optimizer_step: buffers that are no whole lines are refused, and nothing is written") {
  cuda::context<cuda::precision::bf16> ctx;
  device_array<float> const w(65);
  device_array<__nv_bfloat16> const r(65);
  CHECK(shape_message([&] { cuda::measure_gradients(ctx, w.data(), nullptr, 65, {}, nullptr); }) ==
        "measure_gradients.n modulo 64: got 1, expected 0");
  cuda::update_buffers<__nv_bfloat16> const buffers{w.data(), w.data(), w.data(), nullptr, nullptr, r.data()};
  CHECK(shape_message([&] { cuda::optimizer_step(ctx, {}, buffers, {}, 65, nullptr, nullptr, nullptr, true); }) ==
        "optimizer_step.n modulo 64: got 1, expected 0");
  for (double v : r.read()) CHECK(std::isnan(v));
}
