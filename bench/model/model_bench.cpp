/// @file
/// Whole evaluations, and what part of a plain matrix product's speed they reach.
#include "support/ceiling.hpp"
#include "support/flops.hpp"
#include "support/random_model.hpp"

#include <dm2/model/model.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

template <config C, class T>
using network = model<C, cpu::context<T>>;

template <config C, class T>
std::vector<T> logits_of(network<C, T>& net, buffer<T> const& pictures) {
  std::vector<T> logits(pictures.size() / net.pixels * net.classes, std::numeric_limits<T>::quiet_NaN());
  net.forward(pictures.span(), logits);
  return logits;
}

/// Float logits against those of the network in double.
template <config C>
double forward_error(network<C, float>& net, int batch) {
  network<C, double> wide{batch, cpu::context<double>{2}};
  std::copy(net.state().begin(), net.state().end(), wide.state().begin());
  std::size_t const n = std::size_t(batch) * net.pixels;
  return relative_error(logits_of(net, normal<float>(n, 2)), logits_of(wide, normal<double>(n, 2)));
}

/// One network for all its benchmarks: filling Small's takes longer than a forward.
template <config C>
network<C, float>& shared_network() {
  static network<C, float> net = [] {
    network<C, float> fresh{8, cpu::context<float>{1}};
    fill_random<C>(fresh.state().data());
    return fresh;
  }();
  return net;
}

template <config C>
void forward(benchmark::State& state) {
  int const batch = int(state.range(0)), threads = int(state.range(1));
  auto& net = shared_network<C>();
  net.ctx().set_threads(threads);
  std::string const key = std::to_string(C.dim) + "/" + std::to_string(batch) + "/" + std::to_string(threads);
  if (!verified(state, key, 1e-4, [&] { return forward_error<C>(net, batch); })) return;
  auto const pictures = normal<float>(std::size_t(batch) * net.pixels, 2);
  std::vector<float> logits(std::size_t(batch) * net.classes);
  net.forward(pictures.span(), logits);
  time_against_ceiling(state, threads, batch, batch * forward_flops<C>(),
                       [&] { net.forward(pictures.span(), logits); });
}

}  // namespace

BENCHMARK(forward<tiny>)->Name("tiny")->ArgNames({"batch", "threads"})->ArgsProduct({{1, 8}, {1, 2}})->UseManualTime();
BENCHMARK(forward<small>)
    ->Name("small")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{1, 8}, {1, 2}})
    ->UseManualTime();
