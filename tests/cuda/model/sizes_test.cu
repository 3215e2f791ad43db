#include "cuda/model/case.cuh"

#include <doctest/doctest.h>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr auto bf16 = cuda::precision::bf16;

/// 257 tokens, which the mixer core takes in two segments; heads of 24 channels; groups, whose norms no product behind
/// them applies; both together with a device that holds whole rows in a block, and without.
constexpr config long_one{.image = {64, 64},
                          .patch = 4,
                          .stem_width = 8,
                          .depth = 2,
                          .dim = 48,
                          .classes = 10,
                          .headdim = 24,
                          .d_state = 32,
                          .attn_layers = {}};
constexpr config grouped{.image = {16, 24},
                         .patch = 4,
                         .stem_width = 8,
                         .depth = 3,
                         .dim = 64,
                         .classes = 10,
                         .headdim = 16,
                         .d_state = 16,
                         .groups = 2,
                         .attn_layers = {}};
constexpr config long_groups{.image = {64, 64},
                             .patch = 4,
                             .stem_width = 8,
                             .depth = 2,
                             .dim = 32,
                             .classes = 10,
                             .headdim = 16,
                             .d_state = 16,
                             .groups = 4,
                             .attn_layers = {},
                             .variant = mixer_variant::bidirectional};

}  // namespace

TEST_CASE("cuda model: long sequences, heads of any width and groups give the logits of the CPU in double") {
  check_against_double<long_one, bf16>(1.8e-2);
  check_against_double<grouped, bf16>(1.8e-2);
  check_against_double<long_groups, bf16>(1.8e-2);
  check_against_double<long_groups, cuda::precision::fp16>(4e-3);
}

TEST_CASE("cuda model: groups whose blocks make whole rows give the logits of the CPU in double [long]") {
  model_case<grouped, bf16> f{300};
  f.run_host();
  CHECK(relative_error(f.run(), f.logits) < 1.8e-2);
}
