/// @file
/// A whole training step, and the share of each part in it.
#include "../examples/support/configurations.hpp"
#include "support/split_step.hpp"
#include "support/verify.hpp"

#include <memory>
#include <string>

namespace {

using namespace dm2;
using namespace dm2::bench;

template <config C>
void whole_step(benchmark::State& state, optimizer_options rule) {
  int const batch = int(state.range(0)), threads = int(state.range(1));
  auto const run = std::make_unique<split_step<C>>(batch, threads, rule);
  std::string const key = std::to_string(C.dim) + "/" + std::to_string(batch) + "/" + std::to_string(threads);
  if (!verified(state, key, 0, [&] { return split_step<C>{batch, threads, rule}.error(); })) return;
  (*run)();
  run->restart();
  for (auto _ : state) (*run)();
  run->report(state);
}

void quick_step(benchmark::State& state) {
  whole_step<example::quick>(state, {.kind = optimizer_kind::adamw, .weight_decay = 0.05, .clip_norm = 1});
}
void tiny_step(benchmark::State& state) { whole_step<tiny>(state, {}); }

}  // namespace

BENCHMARK(quick_step)
    ->Name("quick/whole_step")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{24}, {1, 2}})
    ->UseRealTime();
BENCHMARK(tiny_step)
    ->Name("tiny/whole_step")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();
