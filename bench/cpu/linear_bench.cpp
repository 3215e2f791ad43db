/// @file
/// Linear layers at the sizes of Tiny's mixer input projection, forward and backward.
#include "support/flops.hpp"
#include "support/operation.hpp"

#include <dm2/cpu/linear.hpp>

namespace linear_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr int in = tiny.dim, out = sizes<tiny>::projected;

template <class T>
struct forward_case {
  std::size_t count;
  buffer<T> x = normal<T>(count * in, 1), w = normal<T>(std::size_t(out) * in, 2), bias = normal<T>(out, 3),
            y{count * out};

  explicit forward_case(std::size_t n) : count{n} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::linear(ctx, rows<T const, in>{x.data(), count}, block<T const, space::host, out, in>{w.data()},
                block<T const, space::host, out>{bias.data()}, rows<T, out>{y.data(), count});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {y.span()}; }
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    std::vector<double> want(y.size());
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t o = 0; o < out; ++o) {
        double sum = double(bias.data()[o]);
        for (std::size_t i = 0; i < in; ++i) sum += double(x.data()[r * in + i]) * double(w.data()[o * in + i]);
        want[r * out + o] = sum;
      }
    return {want};
  }
};

template <class T>
struct backward_case {
  forward_case<T> f;
  buffer<T> dy = normal<T>(f.count * out, 4), dx{f.count * in}, dw{std::size_t(out) * in}, db{out};

  explicit backward_case(std::size_t n) : f{n} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::linear_backward(ctx, rows<T const, in>{f.x.data(), f.count}, block<T const, space::host, out, in>{f.w.data()},
                         rows<T const, out>{dy.data(), f.count}, rows<T, in>{dx.data(), f.count},
                         block<T, space::host, out, in>{dw.data()}, block<T, space::host, out>{db.data()});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {dx.span(), dw.span(), db.span()}; }
};

template <template <class> class Case>
void run(benchmark::State& state) {
  bool const backward = std::is_same_v<Case<float>, backward_case<float>>;
  std::size_t const count = std::size_t(state.range(0));
  double const flops = product_flops(double(count), out, in) * (backward ? 2 : 1);
  time_operation<Case>(state, std::to_string(count) + (backward ? "b" : "f"), int(state.range(1)), {flops, 0}, 1e-5,
                       count);
}

BENCHMARK(run<forward_case>)
    ->Name("linear/forward")
    ->ArgNames({"rows", "threads"})
    ->ArgsProduct({{197, 1576}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<backward_case>)
    ->Name("linear/backward")
    ->ArgNames({"rows", "threads"})
    ->ArgsProduct({{197, 1576}, {1, 2}})
    ->UseRealTime();

}  // namespace linear_bench
