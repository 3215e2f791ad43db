/// @file
/// The two classifiers: evaluation, training forward, backward.
#include "support/flops.hpp"
#include "support/operation.hpp"
#include "support/random_model.hpp"

#include <dm2/cpu/heads.hpp>
#include <dm2/model/network.hpp>

namespace heads_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr config C = shallow(tiny);
constexpr int length = sizes<C>::length;

template <class T>
struct head_case {
  int batch;
  std::size_t count = std::size_t(batch) * length;
  random_state<C, T> state;
  buffer<T> features = normal<T>(count * C.dim, 1), cls{std::size_t(batch) * C.classes},
            aux{(count - std::size_t(batch)) * C.classes};

  explicit head_case(int b) : batch{b} {}

  [[nodiscard]] rows<T const, C.dim> input() const { return {features.data(), count}; }
  [[nodiscard]] rows<T, C.classes> class_rows() const { return {cls.data(), std::size_t(batch)}; }
  [[nodiscard]] rows<T, C.classes> patch_rows() const { return {aux.data(), count - std::size_t(batch)}; }
  [[nodiscard]] auto parameters() const { return dm2::detail::head_operands(state.view()); }
};

template <class T>
struct evaluation : head_case<T> {
  using head_case<T>::head_case;

  void operator()(cpu::context<T>& ctx) {
    cpu::evaluation_heads(ctx, this->input(), this->parameters(), this->class_rows(), length);
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {this->cls.span()}; }
};

template <class T>
struct training : head_case<T> {
  using head_case<T>::head_case;

  void operator()(cpu::context<T>& ctx) {
    cpu::training_heads(ctx, this->input(), this->parameters(), this->class_rows(), this->patch_rows(), length);
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {this->cls.span(), this->aux.span()}; }
};

template <class T>
struct backward : head_case<T> {
  buffer<T> dcls = normal<T>(this->cls.size(), 2), daux = normal<T>(this->aux.size(), 3),
            dfeatures{this->features.size()}, grad{state_extent<C>};

  using head_case<T>::head_case;

  void operator()(cpu::context<T>& ctx) {
    cpu::training_heads_backward(ctx, this->input(), this->parameters(), {dcls.data(), std::size_t(this->batch)},
                                 {daux.data(), this->patch_rows().count}, {dfeatures.data(), this->count},
                                 dm2::detail::head_operands(network_view<C, T>{grad.data()}), length);
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {dfeatures.span(), grad.span()}; }
};

template <template <class> class Case, int forwards>
void run(benchmark::State& state) {
  int const batch = int(state.range(0)), threads = int(state.range(1));
  time_operation<Case>(state, std::to_string(batch), threads, {batch * forwards * head_flops<C>(), 0}, 1e-5, batch);
}

BENCHMARK(run<evaluation, 1>)
    ->Name("heads/evaluation")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{1, 8}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<training, 1>)
    ->Name("heads/training")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<backward, 2>)
    ->Name("heads/backward")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();

}  // namespace heads_bench
