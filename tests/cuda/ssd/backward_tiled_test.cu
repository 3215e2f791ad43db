// The scan's backward of float: in tiles, in float and TF32, and in chunks, which other sizes and lengths take.
#include <dm2/cuda/ssd/backward_general.cuh>
#include <dm2/cuda/ssd/backward_tiled.cuh>
#include <dm2/cuda/ssd_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/backward_case.cuh"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::padded_slices, scan_shapes::sliced,
    scan_shapes::square, scan_shapes::tiny;

namespace {

template <mixer_shape M, bool Tf32 = false>
struct tiled_scan_of {
  static constexpr mixer_shape shape = M;
  using element = float;
  using form = cuda::detail::ssd::backward_tiled<M, float, Tf32>;
  /// TF32 keeps the mantissa that half has. Float's sums over tokens and channels, some of which cancel, leave up to
  /// 1e-5.
  static constexpr double tolerance = Tf32 ? gradient_tolerance<__half> : 1e-5;
  static constexpr double total_tolerance = Tf32 ? sum_tolerance<__half> : 1e-5;
};

template <mixer_shape M>
struct general_scan_of {
  static constexpr mixer_shape shape = M;
  using element = float;
  using form = cuda::detail::ssd::backward_general<M, float>;
  static constexpr double tolerance = 1e-5, total_tolerance = 1e-5;
};

/// Four groups of heads of 12 columns, 20 states: multiples of 4, not of 16.
constexpr mixer_shape uneven{.heads = 8, .headdim = 12, .d_state = 20, .groups = 4, .d_conv = 4};
/// Heads in two slices of 52 columns, more states than a tile has columns.
constexpr mixer_shape wide{.heads = 2, .headdim = 104, .d_state = 68, .groups = 2, .d_conv = 4};

}  // namespace

#define DM2_TILED_SCANS                                                                                   \
  tiled_scan_of<least>, tiled_scan_of<least, true>, tiled_scan_of<square>, tiled_scan_of<square, true>,   \
      tiled_scan_of<uneven>, tiled_scan_of<uneven, true>, tiled_scan_of<wide>, tiled_scan_of<wide, true>, \
      tiled_scan_of<padded_slices>, tiled_scan_of<lone, true>, general_scan_of<least>, general_scan_of<uneven>

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: every gradient equals double's at lengths around the tiles'", Case,
                   DM2_TILED_SCANS) {
  for (int const length : {1, 3, 31, 32, 33, 63, 64, 65, 127, 129, 191, 193}) {
    CAPTURE(length);
    device_scan<Case> f{2, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: the sizes of models equal double", Case, tiled_scan_of<tiny>,
                   tiled_scan_of<tiny, true>, tiled_scan_of<sliced>, tiled_scan_of<sliced, true>) {
  for (int const length : {65, 197}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: the longest tiles and longer sequences equal double", Case,
                   tiled_scan_of<least>, tiled_scan_of<uneven, true>, general_scan_of<least>) {
  CHECK(device_scan<Case>{1, 7}.fits([](auto& p) { p.length = 1024; }));
  for (int const length : {577, 1023, 1024}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: heads that forget nothing and heads that forget at once equal double",
                   Case, DM2_TILED_SCANS) {
  check_extreme_decays<Case>(129);
  check_slow_decay<Case>(197);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: without steps only D and the steps have gradients", Case,
                   DM2_TILED_SCANS) {
  check_no_steps<Case>(70);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: each set of sequences has its own A and D", Case, DM2_TILED_SCANS) {
  check_sets<Case>(67);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: two runs give the same bits", Case, DM2_TILED_SCANS) {
  check_same_bits<Case>(130, 0);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_tiled: no sequences are no work", Case, DM2_TILED_SCANS) {
  check_no_sequences<Case>();
}

TEST_CASE("cuda ssd_backward_tiled: sequences whose scores pass the scratch go one part after the other") {
  using Case = tiled_scan_of<uneven>;
  device_scan<Case> f{9, 800};  // 7.7 MB of scores each and group: 2 at a time
  auto const& device = cuda::context<>{}.device();
  CHECK(Case::form::scratch_bytes(9, 800, device) < std::size_t{64} << 20);
  CHECK(Case::form::scratch_bytes(9, 800, device) == Case::form::scratch_bytes(900, 800, device));
  f.check();
}

TEST_CASE("cuda ssd_backward_tiled: lengths past the longest and rows off 16 bytes are not taken") {
  device_scan<tiled_scan_of<least>> const f{1, 7};
  CHECK(f.fits([](auto const&) {}));
  CHECK_FALSE(f.fits([](auto& p) { p.length = 1025; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.x; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.dy_stride; }));
  CHECK_FALSE(cuda::detail::ssd::backward_tiled<scan_shapes::large, float, false>::possible);
  CHECK_FALSE(cuda::detail::ssd::backward_tiled<least, __nv_bfloat16, false>::possible);
}

TEST_CASE_TEMPLATE("cuda ssd_backward: a context of TF32 gives TF32's numbers, another one float's", Case,
                   tiled_scan_of<few>) {
  device_scan<Case> f{1, 97};
  auto const run = [&]<cuda::precision P>() {
    cuda::context<P> ctx;
    auto p = f.operands();
    cuda::check(cudaDeviceSynchronize(), "operands");
    REQUIRE(ctx.reserve(cuda::detail::ssd::backward_scratch(p, ctx.device()) + arena::alignment));
    cuda::detail::ssd::launch_backward<P == cuda::precision::tf32>(p, ctx.shared(), ctx.device(), ctx.stream());
    cuda::check(cudaStreamSynchronize(ctx.stream()), "the gradients");
    return relative_error(f.columns(0, f.width), f.host.dx);
  };
  f.host.backward();
  double const exact = run.template operator()<cuda::precision::fp32>();
  double const rounded = run.template operator()<cuda::precision::tf32>();
  CHECK(exact < 1e-6);
  CHECK(rounded > 1e-5);
  CHECK(rounded < rounding_tolerance<__half>);
}
