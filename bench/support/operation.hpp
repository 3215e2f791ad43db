/// @file
/// Verifies one operation of the CPU backend, then times it.
#pragma once

#include "support/numbers.hpp"
#include "support/verify.hpp"

#include <dm2/cpu/context.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
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
/// What an operation that has run should have written.
template <template <class> class Op, class... A>
std::vector<std::vector<double>> expected(Op<float> const& op, A const&... arguments) {
  if constexpr (requires { op.oracle(); }) {
    return op.oracle();
  } else {
    Op<double> wide{arguments...};
    cpu::context<double> ctx{2};
    wide(ctx);
    std::vector<std::vector<double>> out;
    for (std::span<double const> const result : wide.results()) out.emplace_back(result.begin(), result.end());
    return out;
  }
}

/// The largest error of an operation's results on each of these numbers of threads, NaN where there is one. They are
/// held against one oracle: op.oracle(), which shares no code with the operation, where there is one, else the same
/// operation in double.
template <template <class> class Op, class... A>
double operation_error(std::initializer_list<int> threads, A const&... arguments) {
  std::vector<std::vector<double>> want;
  double worst = 0;
  for (int const count : threads) {
    Op<float> op{arguments...};
    cpu::context<float> ctx{count};
    op(ctx);
    if (want.empty()) want = expected<Op>(op, arguments...);
    auto const got = op.results();
    if (got.size() != want.size()) return std::numeric_limits<double>::quiet_NaN();
    for (std::size_t i = 0; i < want.size(); ++i) {
      double const error = relative_error(got[i], want[i]);
      if (std::isnan(error)) return error;
      worst = std::max(worst, error);
    }
  }
  return worst;
}
}  // namespace detail

/// Verifies Op<float>{arguments...} and times its call. One and two threads are verified together, with the first of
/// the two: the oracle takes longer than both.
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
  int const most = std::max(threads, 2);
  if (!verified(state, key + "/" + std::to_string(most), tolerance, [&] {
        return detail::operation_error<Op>({1, most}, arguments...);
      }))
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
