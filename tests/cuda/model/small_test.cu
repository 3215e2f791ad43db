#include "cuda/model/case.cuh"

#include <doctest/doctest.h>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("cuda model: Small's logits equal the CPU's in double") {
  check_against_double<small, cuda::precision::bf16>(1.8e-2);
  check_against_double<small, cuda::precision::fp32>(1e-5);
}
