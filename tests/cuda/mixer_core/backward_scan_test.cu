#include <doctest/doctest.h>

#include "cuda/mixer_core/backward_case.cuh"
#include "cuda/support/precisions.cuh"

#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::detail::ssd::backward_quadratic_two_units;
using cuda::detail::ssd::quadratic_input;

namespace {

constexpr mixer_shape tiny_scan{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape turned_scan{
    .heads = 8, .headdim = 32, .d_state = 32, .groups = 2, .d_conv = 3, .variant = mixer_variant::bidirectional};
constexpr mixer_shape sliced_scan{.heads = 8, .headdim = 96, .d_state = 16, .groups = 4, .d_conv = 2};
constexpr mixer_shape one_unit{.heads = 8, .headdim = 64, .d_state = 16, .groups = 8, .d_conv = 4};
constexpr mixer_shape three_units{.heads = 24, .headdim = 32, .d_state = 64, .groups = 8, .d_conv = 1};

/// Gradients with x, B and C from Input are near double's, unless `allowed` is 0, and the bits of those with x, B and C
/// from a kernel of their own.
template <quadratic_input Input, class Mixer>
void check_input(Mixer& f, std::vector<double> const& want, double allowed) {
  CAPTURE(int(Input));
  f.poison();
  f.template backward_by<Input>();
  if (allowed > 0) f.compare(allowed);
  CHECK(f.bits() == want);
}
template <mixer_shape M>
void check_inputs(int sequences, int length, double allowed) {
  CAPTURE(length);
  backward_mixer<cuda::precision::bf16, M> f{sequences, length};
  f.forward();
  f.host.backward();
  f.backward(true);
  auto const want = f.bits();
  check_input<quadratic_input::two_units>(f, want, allowed);
  check_input<quadratic_input::free_warps>(f, want, allowed);
  check_input<quadratic_input::all_warps>(f, want, allowed);
}

/// Whether Tiny's scan from the projection takes such operands.
template <class F>
bool takes(F const& change) {
  cuda::context<> ctx;
  alignas(16) static __nv_bfloat16 const projection[8] = {};
  cuda::detail::ssd::projected_operands<tiny_scan, __nv_bfloat16> p{};
  p.length = 197, p.sequences = 2, p.set_size = 1, p.projection = projection;
  change(p);
  return backward_quadratic_two_units<tiny_scan, __nv_bfloat16, quadratic_input::free_warps>::fits(p, ctx.device());
}

}  // namespace

TEST_CASE("cuda mixer_core_backward: with the convolution in the scan's kernel it gives the same bits") {
  for (int const length : {1, 2, 3, 15, 16, 17, 33, 100}) {
    check_inputs<turned_scan>(2, length, 6e-2);
    check_inputs<sliced_scan>(1, length, 6e-2);
  }
  check_inputs<tiny_scan>(3, 17, 3e-2);
  check_inputs<tiny_scan>(1, 197, 3e-2);
  check_inputs<turned_scan>(1, 208, 6e-2);
  check_inputs<one_unit>(2, 65, 0);  // a head alone in its group: D's gradient is all rounding
  check_inputs<three_units>(1, 33, 8e-2);
}

TEST_CASE("cuda mixer_core_backward: lengths that its scan does not convolve have a kernel that does") {
  check_inputs<turned_scan>(1, 209, 6e-2);
}

TEST_CASE("cuda mixer_core_backward: what its scan convolves fits a block and is aligned") {
  CHECK(takes([](auto&) {}));
  CHECK(takes([](auto& p) { p.length = 208; }));
  CHECK_FALSE(takes([](auto& p) { p.length = 209; }));
  CHECK_FALSE(takes([](auto& p) { p.sequences = 3; }));
  CHECK_FALSE(takes([](auto& p) { ++p.projection; }));
  CHECK_FALSE(takes([](auto& p) { p.b = p.projection; }));
  CHECK_FALSE(takes([](auto& p) { p.c = p.projection; }));
  float elsewhere = 0;
  CHECK_FALSE(takes([&](auto& p) { p.steps = &elsewhere; }));
  constexpr mixer_shape four{.heads = 4, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
  constexpr mixer_shape wide{.heads = 8, .headdim = 48, .d_state = 256, .groups = 1, .d_conv = 4};
  CHECK_FALSE(backward_quadratic_two_units<four, __nv_bfloat16, quadratic_input::all_warps>::possible);
  CHECK_FALSE(backward_quadratic_two_units<wide, __nv_bfloat16, quadratic_input::all_warps>::possible);
  CHECK(backward_quadratic_two_units<four, __nv_bfloat16, quadratic_input::two_units>::possible);
}
