// A whole training pass on the GPU against the CPU's in double.
#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "cuda/training_pass/case.cuh"
#include "support/configurations.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C>
struct configured {
  static constexpr config value = C;
};
using golden_micro = configured<micro>;
using golden_wide = configured<wide>;
using golden_bidirectional = configured<bidirectional>;

}  // namespace

TEST_CASE_TEMPLATE("cuda training_pass: in float, loss, statistics and gradients are the CPU's in double", Config,
                   golden_micro, golden_wide, golden_bidirectional) {
  check_pass<Config::value, cuda::precision::fp32>(1e-5, 1e-4);
}

TEST_CASE_TEMPLATE("cuda training_pass: in bfloat16, gradients differ from double by rounding", Config, golden_micro,
                   golden_wide, golden_bidirectional) {
  check_pass<Config::value, cuda::precision::bf16>(1e-2, 5e-2);
}

TEST_CASE("cuda training_pass: a second backward adds to the gradients, and two runs give the same bytes") {
  using f_type = pass_case<golden_micro::value, cuda::precision::bf16>;
  f_type one, two;
  one.run();
  two.run();
  std::vector<float> const first(one.pass.gradients().begin(), one.pass.gradients().end());
  CHECK(std::equal(first.begin(), first.end(), two.pass.gradients().begin()));
  bench::fill_random<golden_micro::value>(two.net.state().data());
  two.run();
  std::vector<double> doubled;
  for (float g : first) doubled.push_back(2 * double(g));
  CHECK(relative_error(two.pass.gradients(), doubled) < 1e-5);
}

TEST_CASE("cuda training_pass: sizes and calls out of order are refused") {
  using f_type = pass_case<golden_micro::value, cuda::precision::fp32>;
  model<golden_micro::value, cuda::context<cuda::precision::fp32>> net;
  CHECK_THROWS_AS((training_pass<golden_micro::value, cuda::context<cuda::precision::fp32>>{net, 0}), shape_error);
  training_pass<golden_micro::value, cuda::context<cuda::precision::fp32>> pass{net, f_type::batch};
  std::vector<float> const few(7);
  CHECK_THROWS_AS(pass.forward(few), shape_error);
  std::vector<float> const pictures(f_type::batch * net.pixels, 1.f);
  CHECK_THROWS_AS(pass.forward(pictures, {0, 99, 0, 1}), shape_error);
  CHECK_THROWS_AS(pass.backward(), std::logic_error);
  random_source random{11};
  std::vector<double> const drawn = random_targets<golden_micro::value>(random, f_type::batch);
  std::vector<float> const target(drawn.begin(), drawn.end());
  CHECK_THROWS_AS(pass.loss(target), std::logic_error);
  pass.forward(pictures);
  CHECK_THROWS_AS(pass.backward(), std::logic_error);
  pass.loss(target);
  CHECK_THROWS_AS(pass.loss(target), std::logic_error);
  pass.forward(pictures);  // begins anew: the loss before it does not count
  CHECK_THROWS_AS(pass.backward(), std::logic_error);
  pass.loss(target);
  pass.backward();
  CHECK_THROWS_AS(pass.backward(), std::logic_error);
  CHECK(pass.find_gradient("head.weight").values.size() == net.find("head.weight").values.size());
  CHECK_THROWS_AS((void)pass.find_gradient("patch_embed.bn1.running_mean"), std::out_of_range);
}

TEST_CASE("cuda model: one that was moved from throws, and its pass with it") {
  constexpr config C = golden_micro::value;
  model<C, cuda::context<cuda::precision::fp32>> net;
  training_pass<C, cuda::context<cuda::precision::fp32>> pass{net, 1};
  model<C, cuda::context<cuda::precision::fp32>> other{std::move(net)};
  std::vector<float> const pictures(net.pixels, 1.f);
  std::vector<float> logits(net.classes);
  // NOLINTBEGIN(bugprone-use-after-move)
  CHECK_THROWS_AS((void)net.state(), std::logic_error);
  CHECK_THROWS_AS(net.forward(pictures, logits), std::logic_error);
  CHECK_THROWS_AS(net.reserve(2), std::logic_error);
  CHECK_THROWS_AS(pass.forward(pictures), std::logic_error);
  // NOLINTEND(bugprone-use-after-move)
  other.forward(pictures, logits);
}
