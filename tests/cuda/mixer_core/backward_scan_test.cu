#include <doctest/doctest.h>

#include "cuda/mixer_core/backward_case.cuh"
#include "cuda/support/precisions.cuh"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::detail::mixer_core::backward_plan;
using cuda::detail::mixer_core::scan_convolves;
using cuda::detail::ssd::backward_projected;

namespace {

constexpr mixer_shape tiny_scan{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape turned_scan{
    .heads = 8, .headdim = 32, .d_state = 32, .groups = 2, .d_conv = 3, .variant = mixer_variant::bidirectional};
constexpr mixer_shape sliced_scan{.heads = 8, .headdim = 96, .d_state = 16, .groups = 4, .d_conv = 2};
constexpr mixer_shape one_unit{.heads = 8, .headdim = 64, .d_state = 16, .groups = 8, .d_conv = 4};
constexpr mixer_shape three_units{.heads = 24, .headdim = 32, .d_state = 64, .groups = 8, .d_conv = 1};

/// Whether a column of the projection is a step of either direction.
template <mixer_shape M>
bool holds_step(std::size_t column) {
  using traits = cuda::detail::mixer_core::backward_traits<M, 1>;
  auto const in = [&](int first) { return int(column) >= first && int(column) < first + M.heads; };
  return in(traits::first::dt) || in(traits::second::dt);
}
/// The numbers of dzxbcdt in columns of steps, or in the others.
template <mixer_shape M>
std::vector<double> columns_of(std::vector<double> const& dzxbcdt, bool steps) {
  std::vector<double> out;
  for (std::size_t i = 0; i < dzxbcdt.size(); ++i)
    if (holds_step<M>(i % M.projected()) == steps) out.push_back(dzxbcdt[i]);
  return out;
}

template <mixer_shape M>
using bf16_mixer = backward_mixer<cuda::precision::bf16, M>;

/// With the convolution in the scan's kernel the gradients of steps and of A are added up in another order. All others
/// are the same bits. Allowed: of sums in float 100 times the 8e-8 that were seen; of steps, which are rounded to
/// bfloat16 after it, that some go the other way: one of 1,056 alike, by 2^-7 of itself, is 2.4e-4 (0 was seen).
template <mixer_shape M>
void check_sums(bf16_mixer<M> const& taken, bf16_mixer<M> const& ready) {
  auto const got = taken.din.read(), want = ready.din.read();
  CHECK(columns_of<M>(got, false) == columns_of<M>(want, false));
  CHECK(relative_error(columns_of<M>(got, true), columns_of<M>(want, true)) < 1e-3);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t const k : {0, 1, 4, 5}) CHECK(taken.grad[i][k].read() == ready.grad[i][k].read());
    for (std::size_t const k : {2, 3}) CHECK(relative_error(taken.grad[i][k].read(), ready.grad[i][k].read()) < 8e-6);
  }
}

/// Gradients with the convolution in the scan's kernel are near double's, unless `allowed` is 0, and the same bits in
/// two runs. check_sums says how near they are to those with x, B and C from a kernel of their own; they take less
/// scratch where the scan `convolves`, and have the same bits where it does not.
template <mixer_shape M>
void check_scan(int sequences, int length, double allowed, bool convolves = true) {
  CAPTURE(length);
  bf16_mixer<M> f{sequences, length}, again{sequences, length}, ready{sequences, length};
  f.forward();
  f.backward(true);
  f.host.backward();
  if (allowed > 0) f.compare(allowed);
  again.forward();
  again.backward(true);
  CHECK(f.bits() == again.bits());
  ready.forward();
  ready.backward_ready();
  check_sums<M>(f, ready);
  if (!convolves) CHECK(f.bits() == ready.bits());
  CHECK((f.ctx.scratch_bytes() < ready.ctx.scratch_bytes()) == convolves);
}

/// Whether Tiny's scan takes a projection so many numbers behind a multiple of 16 bytes.
bool takes(int length, int offset = 0) {
  cuda::context<> ctx;
  alignas(16) static __nv_bfloat16 const projection[8] = {};
  return scan_convolves<tiny_scan, __nv_bfloat16, 4>(projection + offset, length, ctx.device());
}

}  // namespace

TEST_CASE("cuda mixer_core_backward: with the convolution in the scan's kernel it gives the same gradients") {
  for (int const length : {1, 2, 3, 15, 16, 17, 33, 100}) {
    check_scan<turned_scan>(2, length, 6e-2);
    check_scan<sliced_scan>(1, length, 6e-2);
  }
  check_scan<tiny_scan>(3, 17, 3e-2);
  check_scan<tiny_scan>(1, 197, 3e-2);
  check_scan<turned_scan>(1, 208, 6e-2);
  check_scan<one_unit>(2, 65, 0);  // a head alone in its group: D's gradient is all rounding
  check_scan<three_units>(1, 33, 8e-2);
}

TEST_CASE("cuda mixer_core_backward: lengths that its scan does not convolve have a kernel that does") {
  check_scan<turned_scan>(1, 209, 6e-2, false);
}

TEST_CASE("cuda mixer_core_backward: the scan convolves bfloat16, aligned, of as many tokens as have warps free") {
  using fp16 = __half;
  CHECK(takes(1));
  CHECK(takes(197));
  CHECK(takes(208));
  CHECK_FALSE(takes(209));
  CHECK_FALSE(takes(197, 1));
  CHECK_FALSE(takes(197, 4));
  cuda::context<> ctx;
  CHECK_FALSE(scan_convolves<tiny_scan, fp16, 4>(nullptr, 197, ctx.device()));
  constexpr mixer_shape four{.heads = 4, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
  constexpr mixer_shape wide{.heads = 8, .headdim = 48, .d_state = 256, .groups = 1, .d_conv = 4};
  constexpr mixer_shape taps{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 5};
  CHECK_FALSE(backward_projected<four, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_projected<wide, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_projected<taps, __nv_bfloat16>::possible);
}

TEST_CASE("cuda mixer_core_backward: a block without room for two units' operands leaves the convolution outside") {
  cuda::context<> ctx;
  auto device = ctx.device();
  using T = __nv_bfloat16;
  CHECK(scan_convolves<tiny_scan, T, 4>(nullptr, 16, device));
  device.shared_per_block = 48 * 1024;
  CHECK_FALSE(scan_convolves<tiny_scan, T, 4>(nullptr, 197, device));
}

TEST_CASE("cuda mixer_core_backward: where its scan convolves, scratch is less by x of both directions") {
  cuda::context<> ctx;
  using plan = backward_plan<tiny_scan, __nv_bfloat16>;
  for (int const sequences : {1, 3, 256}) {
    std::size_t const x = 2 * std::size_t(sequences) * 197 * tiny_scan.d_inner() * sizeof(__nv_bfloat16);
    std::size_t const ready = plan{sequences, 197, ctx.device()}.bytes();
    std::size_t const taken = plan{sequences, 197, ctx.device(), true}.bytes();
    CAPTURE(taken);
    CHECK(ready >= taken + x);
    CHECK(ready < taken + x + 2 * arena::alignment);
  }
}
