/// @file
/// Holds a benchmark's result against an oracle before it is timed. One wrong result fails the program.
#pragma once

#include "support/relative_error.hpp"

#include <benchmark/benchmark.h>

#include <map>
#include <string>

namespace dm2::bench {

/// Whether any result was wrong; main returns EXIT_FAILURE then.
inline bool found_wrong_result = false;

/// Stops the benchmark and marks the program as failed unless error() is at most the tolerance, which NaN is not. error
/// is computed once for each key, since the library enters a benchmark several times to find its number of iterations.
template <class F>
bool verified(benchmark::State& state, std::string const& key, double tolerance, F const& error) {
  static std::map<std::string, double> known;
  auto const [at, fresh] = known.try_emplace(key);
  if (fresh) at->second = error();
  if (at->second <= tolerance) return true;
  found_wrong_result = true;
  std::string const message = "WRONG RESULT: relative error " + std::to_string(at->second) + ", at most " +
                              std::to_string(tolerance) + " is accepted";
  state.SkipWithError(message.c_str());
  return false;
}

}  // namespace dm2::bench
