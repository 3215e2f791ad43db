/// @file
/// Both directions of the mixer between its projections, forward and backward.
#include "support/flops.hpp"
#include "support/operation.hpp"
#include "support/random_model.hpp"

#include <dm2/cpu/mixer_core_backward.hpp>
#include <dm2/model/blocks.hpp>

namespace mixer_core_bench {

using namespace dm2;
using namespace dm2::bench;

template <config C>
struct layer_of {
  static constexpr config L = shallow(C);
  using mixer = dm2::detail::mixer_block<L>;
  static constexpr int wide = mixer::wide, inner = mixer::inner;

  template <class T>
  struct forward {
    int length;
    std::size_t count;
    random_state<L, T> state;
    buffer<T> x = normal<T>(count * wide, 1), g{count * inner};

    forward(int l, int sequences) : length{l}, count{std::size_t(l) * std::size_t(sequences)} {}

    void operator()(cpu::context<T>& ctx) {
      cpu::mixer_core(ctx, {x.data(), count}, mixer::core_parameters(state.view(), 0), {g.data(), count}, length);
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {g.span()}; }
  };

  template <class T>
  struct backward {
    forward<T> f;
    buffer<T> dg = normal<T>(f.count * inner, 2), dx{f.count * wide}, grad{state_extent<L>};

    backward(int l, int sequences) : f{l, sequences} {}

    void operator()(cpu::context<T>& ctx) {
      cpu::mixer_core_backward(ctx, {f.x.data(), f.count}, mixer::core_parameters(f.state.view(), 0),
                               {dg.data(), f.count}, {dx.data(), f.count},
                               mixer::core_parameters(network_view<L, T>{grad.data()}, 0), f.length);
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {dx.span(), grad.span()}; }
  };
};

/// A backward counts two forwards; what it computes again does not count.
template <config C, template <class> class Case>
void run(benchmark::State& state) {
  bool const backward = std::is_same_v<Case<float>, typename layer_of<C>::template backward<float>>;
  int const length = int(state.range(0)), count = int(state.range(1)), threads = int(state.range(2));
  mixer_shape const m = sizes<C>::mixer;
  bool const chunked = cpu::detail::use_chunks(m, length, cpu::scan_form::automatic);
  double const flops = 2 * (chunked ? chunked_scan_flops(m, length) : scan_flops(m, length)) * (backward ? 2 : 1);
  time_operation<Case>(state, std::to_string(length) + "/" + std::to_string(count), threads, {count * flops, 0}, 1e-4,
                       length, count);
}

void lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"length", "sequences", "threads"})->UseRealTime();
  for (int threads : {1, 2})
    b->Args({197, 1, threads})->Args({197, 8, threads})->Args({785, 2, threads})->Args({3137, 1, threads});
}

BENCHMARK(run<tiny, layer_of<tiny>::forward>)->Name("mixer_core/forward/tiny")->Apply(lengths);
BENCHMARK(run<small, layer_of<small>::forward>)->Name("mixer_core/forward/small")->Apply(lengths);
BENCHMARK(run<tiny, layer_of<tiny>::backward>)->Name("mixer_core/backward/tiny")->Apply(lengths);
BENCHMARK(run<small, layer_of<small>::backward>)->Name("mixer_core/backward/small")->Apply(lengths);

}  // namespace mixer_core_bench
