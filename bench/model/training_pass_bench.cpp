/// @file
/// A whole training step without the optimizer: forward, loss, backward, with and without frozen layers.
#include "support/ceiling.hpp"
#include "support/flops.hpp"
#include "support/random_model.hpp"

#include <dm2/model/training_pass.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr config C = tiny;
constexpr mix_box box{2, 9, 3, 12};

/// A network, its pass and a batch. The step leaves the loss; gradients add up until they are cleared.
template <class T>
struct step_case {
  using network = model<C, cpu::context<T>>;
  network net;
  training_pass<C, cpu::context<T>> pass;
  buffer<T> pictures, target;
  double loss = 0;

  step_case(int batch, int threads, int frozen = 0)
      : net{1, cpu::context<T>{threads}},
        pass{net, batch, frozen},
        pictures{normal<T>(std::size_t(batch) * network::pixels, 2)},
        target{uniform<T>(std::size_t(batch) * (2 + sizes<C>::tokens) * C.classes, 3, 0, 0.002f)} {
    fill_random<C>(net.state().data());
  }

  void operator()() {
    pass.forward(pictures.span(), box);
    loss = pass.loss(target.span());
    pass.backward();
  }
};

/// The largest error of a parameter's gradient, and of the loss, against the same step in double. Gradients that are
/// zero but for rounding, as of the key's bias where attention ignores it, are compared as part of the tensor that
/// holds them.
double step_error(step_case<float>& narrow, int batch, int frozen) {
  step_case<double> wide{batch, 2, frozen};
  narrow();
  wide();
  double worst = relative_error(std::vector{narrow.loss}, std::vector{wide.loss});
  for (parameter_entry const& e : parameter_table<C>) {
    if (e.kind != entry_kind::parameter || e.layer < frozen) continue;
    double const error = relative_error(narrow.pass.gradients().subspan(e.offset, e.size),
                                        wide.pass.gradients().subspan(e.offset, e.size));
    if (std::isnan(error)) return error;
    worst = std::max(worst, error);
  }
  return worst;
}

void step(benchmark::State& state) {
  int const batch = int(state.range(0)), threads = int(state.range(1)), frozen = int(state.range(2));
  auto const run = std::make_unique<step_case<float>>(batch, threads, frozen);
  if (!verified(state, std::to_string(batch) + "/" + std::to_string(threads) + "/" + std::to_string(frozen), 1e-3,
                [&] { return step_error(*run, batch, frozen); }))
    return;
  (*run)();
  time_against_ceiling(state, threads, batch, batch * training_flops<C>(frozen), *run);
}

}  // namespace

BENCHMARK(step)
    ->Name("tiny/step")
    ->ArgNames({"batch", "threads", "frozen"})
    ->ArgsProduct({{8}, {1, 2}, {0}})
    ->Args({8, 2, 1})                // the stem
    ->Args({8, 2, C.depth / 2 + 1})  // and half the layers
    ->Args({8, 2, C.depth + 1})      // all but the heads
    ->UseManualTime();
