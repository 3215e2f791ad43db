// A training pass of Tiny against double. The published code's gradients, in bfloat16, are 8.1e-2 away.
#include "cuda/training_pass_case.cuh"

#include <doctest/doctest.h>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("cuda training_pass: Tiny's gradients in bfloat16 [long]") {
  check_pass<tiny, cuda::precision::bf16, 2>(1e-2, 8.1e-2, 12);
}

TEST_CASE("cuda training_pass: Tiny's gradients in float [long]") {
  check_pass<tiny, cuda::precision::fp32, 2>(1e-5, 1e-4, 12);
}
