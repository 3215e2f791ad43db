/// @file
/// The ceiling that whole models are compared with: Eigen's product of two 1024 x 1024 matrices.
#pragma once

#include "support/numbers.hpp"
#include "support/verify.hpp"

#include <dm2/cpu/gemm.hpp>

#include <chrono>
#include <ctime>

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

/// Seconds on the clock, and of all threads on the processor.
struct elapsed {
  double wall = 0, processor = 0;

  elapsed& operator+=(elapsed e) {
    wall += e.wall;
    processor += e.processor;
    return *this;
  }
};

/// What f() takes.
template <class F>
elapsed time_once(F&& f) {
  auto const start = std::chrono::steady_clock::now();
  std::clock_t const ticks = std::clock();
  f();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          double(std::clock() - ticks) / CLOCKS_PER_SEC};
}

/// Times run(), which is `flops` operations on `pictures` pictures, by turns with the ceiling on as many threads, so
/// that both see the same machine. Reports
///   pictures/s, FLOP/s   of run()
///   ceiling              FLOP/s of the 1024 x 1024 product
///   of_ceiling           the ratio of the two
///   of_ceiling_cpu       the same by processor time, with one thread only: what a machine with other work to do would
///   reach
///                        alone, where of_ceiling also has the luck of who was interrupted. Waiting threads spin and
///                        would count
template <class F>
void time_against_ceiling(benchmark::State& state, int threads, int pictures, double flops, F&& run) {
  ceiling top{threads};
  top();
  elapsed of_run, of_top;  // the ceiling runs twice a turn
  for (auto _ : state) {
    of_top += time_once(top);
    elapsed const e = time_once(run);
    of_top += time_once(top);
    state.SetIterationTime(e.wall);
    of_run += e;
  }
  double const n = double(state.iterations()), run_flops = n * flops, top_flops = 2 * n * ceiling::flops;
  state.counters["pictures/s"] = n * pictures / of_run.wall;
  state.counters["FLOP/s"] = run_flops / of_run.wall;
  state.counters["ceiling"] = top_flops / of_top.wall;
  state.counters["of_ceiling"] = run_flops / of_run.wall / (top_flops / of_top.wall);
  if (threads == 1) state.counters["of_ceiling_cpu"] = run_flops / of_run.processor / (top_flops / of_top.processor);
}

}  // namespace dm2::bench
