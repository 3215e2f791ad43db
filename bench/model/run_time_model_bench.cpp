/// @file
/// A model behind the run-time interface, from a shared object, beside the same model compiled in.
///
/// The first case of run_time compiles the model, or finds it in the user's cache.
#include "support/random_model.hpp"

#include <dm2/model/presets.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network_of.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr config quick = presets::quick;
constexpr int batch = 8;

std::unique_ptr<run::network> filled(std::unique_ptr<run::network> net) {
  fill_random<quick>(net->state().data());
  return net;
}
run::network& compiled_in() {
  static auto const net = filled(run::make_cpu_network<quick>(batch, 1));
  return *net;
}
run::network& loaded() {
  static auto const net =
      filled(run::find_code(quick, run::backend::cpu, {.compiled_in = false}).make_network(batch, 1));
  return *net;
}

std::vector<float> logits_of(run::network& net, buffer<float> const& pictures) {
  std::vector<float> logits(std::size_t(batch) * std::size_t(quick.classes));
  net.forward(pictures.span(), logits);
  return logits;
}

/// Both are to give the same bits.
void forward(benchmark::State& state, run::network& net) {
  auto const pictures = normal<float>(std::size_t(batch) * std::size_t(sizes<quick>::pixels), 2);
  std::vector<float> logits = logits_of(net, pictures);
  if (logits != logits_of(compiled_in(), pictures)) return state.SkipWithError("other bits than the compiled-in model");
  for (auto _ : state) net.forward(pictures.span(), logits);
  state.SetItemsProcessed(state.iterations() * batch);
}
void forward_compiled_in(benchmark::State& state) { forward(state, compiled_in()); }
void forward_run_time(benchmark::State& state) { forward(state, loaded()); }

BENCHMARK(forward_compiled_in)->Name("quick/compiled_in");
BENCHMARK(forward_run_time)->Name("quick/run_time");

}  // namespace

std::span<run::model_code const* const> run::compiled_in() { return {}; }
