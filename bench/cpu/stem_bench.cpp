/// @file
/// The convolutional stem: evaluation, training forward, backward.
#include "support/flops.hpp"
#include "support/operation.hpp"
#include "support/random_model.hpp"

#include <dm2/cpu/stem_train.hpp>
#include <dm2/model/network.hpp>

#include <algorithm>

namespace stem_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr config C = shallow(tiny);
constexpr stem_shape shape = sizes<C>::stem;

/// A state that the training forward may change, and a batch of pictures.
template <class T>
struct stem_case {
  int batch;
  std::size_t count = std::size_t(batch) * shape.tokens();
  buffer<T> state{state_extent<C>}, pictures = normal<T>(std::size_t(batch) * sizes<C>::pixels, 1), grid{count * C.dim};

  explicit stem_case(int b) : batch{b} { fill_random<C>(state.data()); }

  [[nodiscard]] network_view<C, T const> view() const { return network_view<C, T const>{state.data()}; }
  [[nodiscard]] auto parameters() const { return dm2::detail::stem_operands(view()); }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {grid.span()}; }
};

template <class T>
struct evaluation : stem_case<T> {
  using stem_case<T>::stem_case;

  void operator()(cpu::context<T>& ctx) {
    cpu::stem_forward<shape>(ctx, this->pictures.data(), this->parameters(), dm2::detail::stem_running(this->view()),
                             {this->grid.data(), this->count});
  }
};

template <class T>
struct training : stem_case<T> {
  buffer<std::byte> memory{planned_bytes<stem_saved<shape, T>>(this->batch)};
  arena place{memory.data(), memory.size()};
  stem_saved<shape, T> saved{place, this->batch};

  using stem_case<T>::stem_case;

  void operator()(cpu::context<T>& ctx) {
    cpu::stem_forward_train<shape>(ctx, this->pictures.data(), this->parameters(),
                                   dm2::detail::stem_running(network_view<C, T>{this->state.data()}),
                                   {this->grid.data(), this->count}, saved);
  }
};

template <class T>
struct backward {
  training<T> f;
  buffer<T> dgrid = normal<T>(f.grid.size(), 2), grad{state_extent<C>};

  explicit backward(int batch) : f{batch} {
    cpu::context<T> ctx{1};
    f(ctx);
  }
  void operator()(cpu::context<T>& ctx) {
    cpu::stem_backward<shape>(ctx, f.pictures.data(), f.parameters(), f.saved, {dgrid.data(), f.count},
                              dm2::detail::stem_operands(network_view<C, T>{grad.data()}), static_cast<T*>(nullptr));
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {grad.span()}; }
};

/// `forwards`: how many forwards the operation counts as; a backward does not count the picture's gradient.
template <template <class> class Case, int forwards>
void run(benchmark::State& state) {
  int const batch = int(state.range(0)), threads = int(state.range(1));
  double const unwanted = forwards == 2 ? first_convolution_flops(shape) : 0;
  time_operation<Case>(state, std::to_string(batch), threads, {batch * (forwards * stem_flops(shape) - unwanted), 0},
                       1e-4, batch);
}

BENCHMARK(run<evaluation, 1>)
    ->Name("stem/evaluation")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{1, 8}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<training, 1>)
    ->Name("stem/training")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<backward, 2>)
    ->Name("stem/backward")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();

}  // namespace stem_bench
