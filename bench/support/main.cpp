/// @file
/// main of every benchmark program: Google Benchmark's, and EXIT_FAILURE after a wrong result.
#include "support/verify.hpp"

#include <Eigen/Core>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
  benchmark::AddCustomContext("compiler", __VERSION__);
  benchmark::AddCustomContext("Eigen's instructions", Eigen::SimdInstructionSetsInUse());
  std::size_t const run = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  if (dm2::bench::found_wrong_result) std::fprintf(stderr, "at least one result is wrong: see above\n");
  return run > 0 && !dm2::bench::found_wrong_result ? EXIT_SUCCESS : EXIT_FAILURE;
}
