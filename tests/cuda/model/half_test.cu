#include "cuda/model/case.cuh"

#include <doctest/doctest.h>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("cuda model: Tiny's logits in half and in TF32 equal the CPU's in double") {
  check_against_double<tiny, cuda::precision::fp16>(4e-3);
  check_against_double<tiny, cuda::precision::tf32>(6e-3);
}
