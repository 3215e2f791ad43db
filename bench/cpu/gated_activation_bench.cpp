/// @file
/// The gated MLP between its projections, forward and backward: bound by exp and memory.
#include "support/operation.hpp"

#include <dm2/cpu/gated_activation.hpp>

#include <cmath>

namespace gated_activation_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr int width = 512;

template <class T>
struct forward_case {
  std::size_t count;
  buffer<T> x = normal<T>(count * 2 * width, 1), y{count * width};

  explicit forward_case(std::size_t n) : count{n} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::gated_activation(ctx, rows<T const, 2 * width>{x.data(), count}, rows<T, width>{y.data(), count});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {y.span()}; }
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    std::vector<double> out(y.size());
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t c = 0; c < width; ++c) {
        double const gate = double(x.data()[r * 2 * width + width + c]);
        out[r * width + c] = double(x.data()[r * 2 * width + c]) * gate / (1 + std::exp(-gate));
      }
    return {out};
  }
};

template <class T>
struct backward_case {
  forward_case<T> f;
  buffer<T> dy = normal<T>(f.y.size(), 2), dx{f.x.size()};

  explicit backward_case(std::size_t n) : f{n} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::gated_activation_backward(ctx, rows<T const, 2 * width>{f.x.data(), f.count},
                                   rows<T const, width>{dy.data(), f.count}, rows<T, 2 * width>{dx.data(), f.count});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {dx.span()}; }
};

/// Numbers that an output channel passes: two halves and the output; or those, dy in its place, and two gradients.
template <template <class> class Case>
void run(benchmark::State& state) {
  std::size_t const count = std::size_t(state.range(0));
  double const numbers = std::is_same_v<Case<float>, backward_case<float>> ? 5 : 3;
  time_operation<Case>(state, std::to_string(count), int(state.range(1)),
                       {0, numbers * sizeof(float) * double(count) * width}, 1e-5, count);
}

BENCHMARK(run<forward_case>)
    ->Name("gated_activation/forward")
    ->ArgNames({"rows", "threads"})
    ->ArgsProduct({{1576}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<backward_case>)
    ->Name("gated_activation/backward")
    ->ArgNames({"rows", "threads"})
    ->ArgsProduct({{1576}, {1, 2}})
    ->UseRealTime();

}  // namespace gated_activation_bench
