#include <doctest/doctest.h>

#include "cuda/ssd/backward_case.cuh"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::narrow, scan_shapes::sliced,
    scan_shapes::square, scan_shapes::tiny, scan_shapes::widest;

#define DM2_QUADRATIC_SCANS                                                                                   \
  scan_of<few, __nv_bfloat16>, scan_of<few, __half>, scan_of<sliced, __nv_bfloat16>, scan_of<square, __half>, \
      scan_of<least, __nv_bfloat16>, scan_of<narrow, __nv_bfloat16>, scan_of<lone, __half>

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: every gradient equals double's at lengths around the tiles'", Case,
                   DM2_QUADRATIC_SCANS) {
  for (int const length : {1, 2, 15, 16, 17, 33, 64, 81, 197, 208}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: Tiny's shape, a batch and the widest sizes equal double", Case,
                   scan_of<tiny, __nv_bfloat16>, scan_of<square, __nv_bfloat16>, scan_of<widest, __half>) {
  device_scan<Case> f{2, Case::shape.headdim == 128 ? 100 : 197};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: up to 240 tokens equal double", Case, scan_of<few, __nv_bfloat16>,
                   scan_of<least, __half>) {
  for (int const length : {209, 225, 240}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: heads that forget nothing, and heads that forget at once", Case,
                   scan_of<few, __nv_bfloat16>, scan_of<square, __half>) {
  check_extreme_decays<Case>(197);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: no step is no gradient but that of D and of the step itself", Case,
                   scan_of<least, __nv_bfloat16>) {
  check_no_steps<Case>(50);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: a slow decay's gradient keeps its digits", Case,
                   scan_of<few, __nv_bfloat16>) {
  check_slow_decay<Case>(197);
}

TEST_CASE("cuda ssd_backward_quadratic: every set of sequences has its own A and D") {
  check_sets<scan_of<least, __nv_bfloat16>>(20);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: two runs give the same bits, also with one unit in memory at a time",
                   Case, scan_of<few, __nv_bfloat16>, scan_of<sliced, __half>) {
  check_same_bits<Case>(197, 163 << 10);
}

TEST_CASE("cuda ssd_backward_quadratic: no sequences are no work") {
  check_no_sequences<scan_of<least, __nv_bfloat16>>();
}

TEST_CASE("cuda ssd_backward_quadratic: calls that do not fit are left to another form") {
  using cuda::detail::ssd::backward_quadratic;
  device_scan<scan_of<tiny, __nv_bfloat16>> const f{1, 197};
  CHECK_FALSE(f.fits([](auto& p) { p.length = 241; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.x; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.db_stride; }));
  CHECK_FALSE(f.fits(99 << 10));
  CHECK(f.fits([](auto& p) { p.length = 128; }, 99 << 10));
  CHECK(f.fits(163 << 10));
  CHECK(backward_quadratic<tiny, __half>::possible);
  CHECK_FALSE(backward_quadratic<tiny, float>::possible);
  CHECK_FALSE(backward_quadratic<one_group, __nv_bfloat16>::possible);
}
