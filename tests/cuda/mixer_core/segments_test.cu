#include <dm2/cuda/mixer_core.cuh>

#include <doctest/doctest.h>

#include "cuda/mixer_core/case.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <initializer_list>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;

constexpr mixer_shape two_groups{.heads = 8, .headdim = 16, .d_state = 32, .groups = 2, .d_conv = 4};
constexpr mixer_shape four_groups{
    .heads = 8, .headdim = 48, .d_state = 16, .groups = 4, .d_conv = 3, .variant = mixer_variant::bidirectional};
constexpr mixer_shape group_each{.heads = 8, .headdim = 16, .d_state = 64, .groups = 8, .d_conv = 2};
/// Columns that no product has room for: 8 behind 24, 8 behind 40, 4 behind 12 and 12 behind 20.
constexpr mixer_shape padded{.heads = 8, .headdim = 24, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape padded_halves{
    .heads = 8, .headdim = 80, .d_state = 16, .groups = 2, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape padded_fours{.heads = 4, .headdim = 12, .d_state = 16, .groups = 2, .d_conv = 4};
constexpr mixer_shape padded_last{
    .heads = 12, .headdim = 20, .d_state = 32, .groups = 3, .d_conv = 4, .variant = mixer_variant::bidirectional};

/// The kernel for segments at any length, short ones too.
template <cuda::precision P, mixer_shape M>
struct segments : device_mixer<P, M> {
  using T = cuda::element<P>;
  static constexpr double tolerance = P == bf16 ? 1.5e-2 : 2e-3;
  int sequences;
  cuda::device_properties device;

  segments(int count, int length) : device_mixer<P, M>{count, length}, sequences{count}, device{this->ctx.device()} {}
  /// Decays so slow that every segment behind counts.
  void forget_slowly() {
    for (std::size_t i = 0; i < 2; ++i) {
      this->host.p[i][3].assign(M.heads, -5);
      (i == 0 ? this->first : this->second).p[3] = device_array<float>{this->host.p[i][3]};
    }
  }
  /// True where the blocks have normed their rows.
  bool run(bool finish) {
    using scratch_memory = cuda::detail::mixer_core::scratch<T, M>;
    int const length = this->host.length;
    cuda::detail::mixer_core::segment_plan<T, M> const plan{device, sequences, length};
    std::size_t const count = this->host.count(), states = plan.states();
    static_cast<void>(this->ctx.reserve(planned_bytes<scratch_memory>(count, length, states)));
    arena_scope const scope{this->ctx.shared()};
    scratch_memory const scratch{this->ctx.shared(), count, length, states};
    auto const p = this->parameters();
    if (cuda::detail::mixer_core::launch_segments<P, M>(this->ctx, plan, this->in.data(), p, this->g.data(), scratch,
                                                        sequences, length, finish))
      return true;
    cuda::detail::mixer_core::scale_by_squares<P, M>(this->ctx, this->g.data(), scratch.squares, p.forward.norm.data,
                                                     p.backward.norm.data, int(count));
    return false;
  }
  /// With runs of segments in blocks of their own, and then in two blocks, which walk all sequences.
  void check(bool finish = true) {
    check_runs(finish);
    device.multiprocessors = 1;
    check_runs(finish);
  }
  void check_runs(bool finish) {
    CAPTURE(this->host.length);
    CAPTURE(M.headdim);
    CAPTURE(M.groups);
    bool const normed = run(finish);
    this->host.forward();
    double const error = relative_error(this->g.read(), this->host.g);
    MESSAGE("segments ", int(P), " H ", M.heads, " P ", M.headdim, " N ", M.d_state, " G ", M.groups, " L ",
            this->host.length, ": ", error);
    CHECK(error < tolerance);
    CHECK(this->g.margins_untouched());
    auto const once = this->g.read();
    CHECK(run(finish) == normed);
    CHECK(this->g.read() == once);
  }
};

template <class F>
void check_lengths(int sequences, std::initializer_list<int> lengths) {
  for (int const length : lengths) F{sequences, length}.check();
}

}  // namespace

TEST_CASE("cuda mixer_core, segments: equals the CPU's in double at every length") {
  check_lengths<segments<bf16, tiny_mixer>>(1, {1, 15, 16, 17, 127, 128, 129, 144, 145, 224, 225, 257});
  check_lengths<segments<fp16, four_heads>>(1, {17, 129, 225, 257, 433});
  check_lengths<segments<bf16, small_state>>(2, {1, 129, 145, 257, 305});
}

TEST_CASE("cuda mixer_core, segments: equals the CPU's for groups of heads") {
  check_lengths<segments<bf16, two_groups>>(2, {16, 145, 257});
  check_lengths<segments<fp16, four_groups>>(2, {17, 128, 305});
  check_lengths<segments<bf16, group_each>>(1, {1, 225, 289});
}

TEST_CASE("cuda mixer_core, segments: equals the CPU's where a head's channels fill no tile") {
  check_lengths<segments<bf16, padded>>(1, {1, 127, 257});
  check_lengths<segments<fp16, padded_halves>>(1, {17, 161});
  check_lengths<segments<bf16, padded_fours>>(2, {15, 289});
  check_lengths<segments<fp16, padded_last>>(1, {129, 305});
}

TEST_CASE("cuda mixer_core: equals the CPU's for groups, and for heads of any width, in one segment and in several") {
  auto const check = []<class F>(F f) {
    CAPTURE(f.host.length);
    f.forward();
    f.host.forward();
    CHECK(relative_error(f.g.read(), f.host.g) < segments<bf16, tiny_mixer>::tolerance);
    CHECK(f.g.margins_untouched());
  };
  for (int const length : {1, 16, 129, 224, 225}) {
    check(device_mixer<bf16, two_groups>{2, length});
    check(device_mixer<bf16, group_each>{2, length});
    check(device_mixer<bf16, padded>{1, length});
    check(device_mixer<fp16, padded_fours>{1, length});
    check(device_mixer<fp16, padded_last>{1, length});
  }
}

TEST_CASE("cuda mixer_core, segments: a state that many segments add to keeps its digits") {
  segments<bf16, small_state> f{1, 577};
  f.forget_slowly();
  f.check();
}

TEST_CASE(
    "cuda mixer_core, segments: rows are normed by their blocks where those make whole ones, or else afterwards") {
  segments<bf16, two_groups> f{3, 161};
  CHECK_FALSE(f.run(true));
  f.check(false);
  f.device.multiprocessors = 1;
  CHECK(f.run(true));
  f.check(false);
}

TEST_CASE("cuda mixer_core, segments: few long sequences are cut into runs, and many are not") {
  cuda::device_properties device{cuda::current_device()};
  device.multiprocessors = 132, device.shared_per_sm = 233472, device.shared_per_block = 232448;  // an H100's
  using plan = cuda::detail::mixer_core::segment_plan<__nv_bfloat16, tiny_mixer>;
  plan const one{device, 1, 4097}, many{device, 64, 577}, more{device, 256, 257};
  CHECK((one.take == 1 && one.runs == 15 && one.run_tokens == 288 && one.blocks == 240));
  CHECK((many.take == 4 && many.runs == 1 && many.blocks == 256));
  CHECK((more.take == 8 && more.runs == 1 && more.blocks == 264));
}

TEST_CASE("cuda mixer_core, segments: long sequences are near the CPU's in double [long]") {
  check_lengths<segments<bf16, tiny_mixer>>(1, {577, 785, 3137});
  check_lengths<segments<fp16, tiny_mixer>>(1, {577, 3137});
  check_lengths<segments<bf16, small_mixer>>(1, {257, 785});
  check_lengths<segments<bf16, four_groups>>(2, {577, 3137});
  check_lengths<segments<bf16, group_each>>(1, {785});
  check_lengths<segments<bf16, padded>>(300, {257});
  segments<bf16, tiny_mixer> slow{1, 3137};
  slow.forget_slowly();
  slow.check();
}

TEST_CASE(
    "cuda mixer_core, segments: as many tiles as two blocks a multiprocessor leave, nine where that saves a segment") {
  cuda::device_properties device{cuda::current_device()};
  using T = __nv_bfloat16;
  device.shared_per_sm = 233472, device.shared_per_block = 232448;  // an H100's
  auto const tiles = [&](int length) { return cuda::detail::mixer_core::segment_tiles<T, tiny_mixer>(device, length); };
  CHECK(tiles(16) == 1);
  CHECK(tiles(129) == 9);
  CHECK(tiles(257) == 9);
  CHECK(tiles(289) == 8);  // three segments, with nine as well
  CHECK(tiles(577) == 8);
  CHECK(cuda::detail::mixer_core::segment_tiles<
            T, mixer_shape{.heads = 4, .headdim = 64, .d_state = 128, .groups = 1, .d_conv = 4}>(device, 257) == 8);
  CHECK(cuda::detail::mixer_core::whole_fits<T, tiny_mixer>(device, 224));
  CHECK_FALSE(cuda::detail::mixer_core::whole_fits<T, tiny_mixer>(device, 225));
  CHECK(cuda::detail::mixer_core::fits<T, tiny_mixer>(device, 100000));
  device.shared_per_sm = 102400, device.shared_per_block = 101376;  // an RTX 4090's
  CHECK(cuda::detail::mixer_core::segments_fit<T, tiny_mixer>(device));
  CHECK_FALSE(cuda::detail::mixer_core::whole_fits<T, tiny_mixer>(device, 197));
}
