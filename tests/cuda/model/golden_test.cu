#include <dm2/cuda/model.cuh>

#include <doctest/doctest.h>

#include "model/golden_model.hpp"
#include "support/compare.hpp"

#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C, cuda::precision P>
void check_golden(char const* file, double tolerance) {
  golden const g{std::string{file} + ".safetensors"};
  model<C, cuda::context<P>> net;
  load_parameters(net, g);
  auto const image = g.get<float>("image");
  auto const want = g.get<double>("eval/logits");
  std::vector<float> logits(want.size());
  net.forward(image, logits);
  double const error = relative_error(logits, want);
  MESSAGE(std::string{file}, " precision ", int(P), ": ", error);
  CHECK(error < tolerance);
}

}  // namespace

TEST_CASE("cuda model: the golden models' logits, in float and in 16 bits") {
  check_golden<micro, cuda::precision::fp32>("model_micro", 1e-5);
  check_golden<micro, cuda::precision::bf16>("model_micro", 3e-2);
  check_golden<wide, cuda::precision::fp32>("model_wide", 1e-5);
  check_golden<wide, cuda::precision::bf16>("model_wide", 3e-2);
  check_golden<bidirectional, cuda::precision::fp32>("model_bidirectional", 1e-5);
  check_golden<bidirectional, cuda::precision::fp16>("model_bidirectional", 5e-3);
}
