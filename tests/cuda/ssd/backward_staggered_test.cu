// The scan's backward in chunks with the teams a phase apart.
#include <dm2/cuda/ssd/backward_chunked.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/backward_case.cuh"

#include <algorithm>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::padded, scan_shapes::sliced,
    scan_shapes::square, scan_shapes::tiny;

// In no unnamed namespace: nvcc 13 takes a member that only other templates use for unused there.
template <mixer_shape M, class T>
struct staggered_scan_of : chunked_scan_of<M, T> {
  using form = cuda::detail::ssd::backward_chunked<M, T, true>;
  /// Of two heads dA is two sums of both signs: draws are off by up to 5.9e-2 in bf16, with the teams in step as well.
  static constexpr double total_tolerance = 2 * sum_tolerance<T>;
};

namespace {

/// Four groups of three heads: an odd number of units, fewer than there are sets of decays.
constexpr mixer_shape four_groups{.heads = 12, .headdim = 16, .d_state = 32, .groups = 4, .d_conv = 4};

/// Whether a multiprocessor of the device holds as many blocks with the teams apart.
template <class Case>
bool apart() {
  return Case::form::staggers(cuda::context<>{}.device());
}

}  // namespace

#define DM2_STAGGERED_SCANS                                                             \
  staggered_scan_of<few, __nv_bfloat16>, staggered_scan_of<four_groups, __nv_bfloat16>, \
      staggered_scan_of<sliced, __nv_bfloat16>, staggered_scan_of<square, __half>,      \
      staggered_scan_of<least, __nv_bfloat16>

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: every gradient equals double's at lengths around the chunks'", Case,
                   DM2_STAGGERED_SCANS) {
  CHECK(apart<Case>());
  for (int const length : {1, 17, 63, 64, 65, 81, 127, 128, 129, 193, 257}) {
    CAPTURE(length);
    device_scan<Case> f{2, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: Tiny's shape, a batch, and heads of 24 columns equal double", Case,
                   staggered_scan_of<tiny, __nv_bfloat16>, staggered_scan_of<padded, __half>) {
  CHECK(apart<Case>());
  device_scan<Case> f{2, 257};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: long sequences equal double", Case,
                   staggered_scan_of<few, __nv_bfloat16>, staggered_scan_of<four_groups, __half>) {
  device_scan<Case> f{1, 785};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: heads that forget nothing, and heads that forget at once", Case,
                   staggered_scan_of<few, __nv_bfloat16>, staggered_scan_of<square, __half>) {
  check_extreme_decays<Case>(270);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: a slow decay's gradient keeps its digits over chunks", Case,
                   staggered_scan_of<few, __nv_bfloat16>) {
  check_slow_decay<Case>(400);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: no step is no gradient but that of D and of the step itself", Case,
                   staggered_scan_of<least, __nv_bfloat16>) {
  check_no_steps<Case>(130);
}

TEST_CASE("cuda ssd_backward_staggered: every set of sequences has its own A and D") {
  check_sets<staggered_scan_of<least, __nv_bfloat16>>(70);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: two runs give the same bits, also with one unit in memory at a time",
                   Case, staggered_scan_of<few, __nv_bfloat16>, staggered_scan_of<sliced, __half>) {
  check_same_bits<Case>(200, 99 << 10);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_staggered: the two ways give the same gradients", Case,
                   staggered_scan_of<few, __nv_bfloat16>, staggered_scan_of<four_groups, __half>,
                   staggered_scan_of<sliced, __nv_bfloat16>) {
  for (int const length : {63, 81, 200}) {
    device_scan<Case> f{2, length};
    device_scan<chunked_scan_of<Case::shape, typename Case::element>> g{2, length};
    CHECK(f.in.read() == g.in.read());
    if (!f.launch(f.operands()) || !g.launch(g.operands())) return;
    CHECK(f.out.read() == g.out.read());
    CHECK(relative_error(f.ddt.read(), g.ddt.read()) < 1e-6);
    CHECK(relative_error(f.da.read(), g.da.read()) < 1e-5);
    CHECK(relative_error(f.dd.read(), g.dd.read()) < 1e-6);
  }
}

TEST_CASE("cuda ssd_backward_staggered: a group of one unit has nothing to stagger") {
  using Case = staggered_scan_of<lone, __half>;
  CHECK_FALSE(apart<Case>());
  device_scan<Case> f{1, 145};
  f.check();
}
