/// @file
/// The mixer's depthwise convolution, forward and backward, for one sequence on one thread: bound by memory.
#include "support/operation.hpp"

#include <dm2/cpu/causal_conv1d.hpp>

#include <algorithm>

namespace causal_conv1d_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr int taps = 4;

template <class T>
struct forward_case {
  int length, channels;
  buffer<T> x = normal<T>(std::size_t(length * channels), 1), w = normal<T>(std::size_t(channels * taps), 2),
            bias = normal<T>(std::size_t(channels), 3), y{std::size_t(length * channels)};

  forward_case(int l, int c) : length{l}, channels{c} {}

  void operator()(cpu::context<T>&) {
    cpu::causal_conv1d(cpu::sequence<T const>{x.data(), channels, length}, channels, taps, w.data(), bias.data(),
                       cpu::sequence<T>{y.data(), channels, length});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {y.span()}; }
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    std::vector<double> out(y.size());
    for (int t = 0; t < length; ++t)
      for (int c = 0; c < channels; ++c) {
        double sum = double(bias.data()[c]);
        for (int k = 0; k < taps; ++k)
          if (int const from = t - (taps - 1) + k; from >= 0)
            sum += double(w.data()[k * channels + c]) * double(x.data()[from * channels + c]);
        out[std::size_t(t * channels + c)] = sum;
      }
    return {out};
  }
};

template <class T>
struct backward_case {
  forward_case<T> f;
  buffer<T> dy = normal<T>(f.y.size(), 4), dx{f.y.size()}, dw{f.w.size()}, db{f.bias.size()};

  backward_case(int l, int c) : f{l, c} {}

  void operator()(cpu::context<T>&) {
    int const c = f.channels, l = f.length;
    std::fill_n(dx.data(), dx.size(), T(0));
    cpu::causal_conv1d_backward(cpu::sequence<T const>{f.x.data(), c, l}, c, taps, f.w.data(),
                                cpu::sequence<T const>{dy.data(), c, l}, cpu::sequence<T>{dx.data(), c, l}, dw.data(),
                                db.data());
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {dx.span(), dw.span(), db.span()}; }
};

/// Arrays that a token passes at least once: x and y; or x, dy and dx.
template <template <class> class Case>
void run(benchmark::State& state) {
  int const length = int(state.range(0)), channels = int(state.range(1));
  bool const backward = std::is_same_v<Case<float>, backward_case<float>>;
  double const bytes = double(length) * channels * sizeof(float) * (backward ? 3 : 2);
  time_operation<Case>(state, std::to_string(length) + "/" + std::to_string(channels), 1, {0, bytes}, 1e-5, length,
                       channels);
}

BENCHMARK(run<forward_case>)
    ->Name("causal_conv1d/forward")
    ->ArgNames({"length", "channels"})
    ->ArgsProduct({{197, 3137}, {640, 1024}});
BENCHMARK(run<backward_case>)
    ->Name("causal_conv1d/backward")
    ->ArgNames({"length", "channels"})
    ->ArgsProduct({{197, 3137}, {640, 1024}});

}  // namespace causal_conv1d_bench
