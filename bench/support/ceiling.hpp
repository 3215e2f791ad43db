/// @file
/// The ceiling that whole models are compared with: Eigen's product of two 1024 x 1024 matrices.
#pragma once

#include "support/numbers.hpp"
#include "support/verify.hpp"

#include <dm2/cpu/gemm.hpp>

#include <chrono>

namespace dm2::bench {

/// Multiplies two 1024 x 1024 matrices.
class ceiling {
 public:
  static constexpr int side = 1024;
  static constexpr double flops = 2.0 * side * side * side;

  explicit ceiling(int threads) : ctx_{threads} {}

  void operator()() {
    using cpu::op;
    cpu::parallel_gemm<op::plain, op::plain, false, float>(ctx_, {a_.data(), side, side}, {b_.data(), side, side},
                                                           {c_.data(), side, side});
    benchmark::ClobberMemory();
  }

 private:
  static constexpr std::size_t size = std::size_t(side) * side;
  cpu::context<float> ctx_;
  buffer<float> a_ = normal<float>(size, 1), b_ = normal<float>(size, 2), c_{size};
};

/// Seconds that f() takes.
template <class F>
double seconds(F&& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Times run(), which is `flops` operations on `pictures` pictures, by turns with the ceiling on as many threads, so that both
/// see the same machine. Reports pictures/s, FLOP/s, the ceiling's FLOP/s and the ratio of the two.
template <class F>
void time_against_ceiling(benchmark::State& state, int threads, int pictures, double flops, F const& run) {
  using counter = benchmark::Counter;
  ceiling top{threads};
  top();
  double run_time = 0, top_time = 0;
  for (auto _ : state) {
    double const before = seconds(top), time = seconds(run), after = seconds(top);
    state.SetIterationTime(time);
    run_time += time;
    top_time += (before + after) / 2;
  }
  double const n = double(state.iterations()), speed = n * flops / run_time, top_speed = n * ceiling::flops / top_time;
  state.counters["pictures/s"] = n * pictures / run_time;
  state.counters["FLOP/s"] = speed;
  state.counters["ceiling"] = top_speed;
  state.counters["of_ceiling"] = counter(speed / top_speed);
}

}  // namespace dm2::bench
