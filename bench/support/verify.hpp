/// @file
/// A benchmark's result is held against an oracle before it is timed; one wrong result fails the program.
#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <map>
#include <string>

namespace dm2::bench {

/// Whether any result was wrong; main returns EXIT_FAILURE then.
inline bool found_wrong_result = false;

/// |got - want| / |want| in the Euclidean norm, in double; NaN for different sizes, or where either holds a NaN. Two zero
/// vectors give 0.
template <class A, class B>
double relative_error(A const& got, B const& want) {
  if (std::size(got) != std::size(want)) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::size(want); ++i) {
    double const w = double(want[i]), d = double(got[i]) - w;
    difference += d * d;
    norm += w * w;
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

/// Stops the benchmark and marks the program as failed unless error() is at most the tolerance, which NaN is not. error is
/// computed once for each key, since the library enters a benchmark several times to find its number of iterations.
template <class F>
bool verified(benchmark::State& state, std::string const& key, double tolerance, F const& error) {
  static std::map<std::string, double> known;
  auto const [at, fresh] = known.try_emplace(key);
  if (fresh) at->second = error();
  if (at->second <= tolerance) return true;
  found_wrong_result = true;
  std::string const message =
      "WRONG RESULT: relative error " + std::to_string(at->second) + ", at most " + std::to_string(tolerance) + " is accepted";
  state.SkipWithError(message.c_str());
  return false;
}

}  // namespace dm2::bench
