/// @file
/// Verifies one operation of the CPU backend, then times it.
#pragma once

#include "support/numbers.hpp"
#include "support/verify.hpp"

#include <dm2/cpu/context.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace dm2::bench {

/// What one call counts as: floating-point operations (support/flops.hpp) and bytes that it has to read and write. 0
/// where the number says nothing.
struct work {
  double flops = 0, bytes = 0;
};

/// Adds GFLOP/s and bytes/s to a finished benchmark.
inline void report(benchmark::State& state, work w) {
  using counter = benchmark::Counter;
  if (w.flops > 0) state.counters["FLOP/s"] = counter(w.flops, counter::kIsIterationInvariantRate);
  if (w.bytes > 0) state.counters["bytes/s"] = counter(w.bytes, counter::kIsIterationInvariantRate, counter::kIs1024);
}

namespace detail {
/// The largest error of an operation's results. The oracle is op.oracle(), which shares no code with the operation,
/// where there is one, else the same operation in double.
template <template <class> class Op, class... A>
double operation_error(int threads, A const&... arguments) {
  Op<float> op{arguments...};
  cpu::context<float> ctx{threads};
  op(ctx);
  auto const got = op.results();
  auto const compare = [&](auto const& want) {
    double worst = got.size() == want.size() ? 0 : 1;
    for (std::size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
      double const error = relative_error(got[i], want[i]);
      if (!(error <= worst)) worst = error;
    }
    return worst;
  };
  if constexpr (requires { op.oracle(); }) {
    return compare(op.oracle());
  } else {
    Op<double> wide{arguments...};
    cpu::context<double> wide_ctx{threads};
    wide(wide_ctx);
    return compare(wide.results());
  }
}
}  // namespace detail

/// Verifies Op<float>{arguments...} and times its call.
///
/// Op<T> makes its operands when constructed; op(ctx) runs the operation; op.results() are what it wrote, as spans of
/// T, right after the first call; op.oracle(), where there is one, is the same as vectors of double. `key` names this
/// case.
///
/// Op stands in a namespace of its file's name, not in an unnamed one: g++ 12 gives what is instantiated over a
/// template of an unnamed namespace external linkage, and of two files with an Op of one name the linker keeps one.
template <template <class> class Op, class... A>
void time_operation(benchmark::State& state, std::string const& key, int threads, work w, double tolerance,
                    A const&... arguments) {
  if (!verified(state, key + "/" + std::to_string(threads), tolerance,
                [&] { return detail::operation_error<Op>(threads, arguments...); }))
    return;
  Op<float> op{arguments...};
  cpu::context<float> ctx{threads};
  op(ctx);  // takes its scratch memory and touches every page
  for (auto _ : state) {
    op(ctx);
    benchmark::ClobberMemory();
  }
  report(state, w);
}

}  // namespace dm2::bench
