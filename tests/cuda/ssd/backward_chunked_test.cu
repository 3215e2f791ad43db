#include <doctest/doctest.h>

#include "cuda/ssd/backward_case.cuh"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::padded, scan_shapes::padded_slices,
    scan_shapes::sliced, scan_shapes::square, scan_shapes::tiny, scan_shapes::widest;

namespace {

/// Three heads of so many columns.
template <int Headdim>
constexpr mixer_shape heads_of{.heads = 3, .headdim = Headdim, .d_state = 32, .groups = 1, .d_conv = 4};

}  // namespace

#define DM2_CHUNKED_SCANS                                                                                    \
  chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<few, __half>, chunked_scan_of<sliced, __nv_bfloat16>, \
      chunked_scan_of<square, __half>, chunked_scan_of<least, __nv_bfloat16>, chunked_scan_of<lone, __half>, \
      chunked_scan_of<heads_of<24>, __nv_bfloat16>, chunked_scan_of<padded_slices, __half>

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: every gradient equals double's at lengths around the chunks'", Case,
                   DM2_CHUNKED_SCANS) {
  for (int const length : {1, 17, 64, 65, 81, 128, 145, 257, 320}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: heads of any multiple of 8 columns equal double", Case,
                   chunked_scan_of<heads_of<8>, __half>, chunked_scan_of<heads_of<40>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<56>, __half>, chunked_scan_of<heads_of<72>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<88>, __half>, chunked_scan_of<heads_of<104>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<120>, __half>) {
  device_scan<Case> f{2, 131};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: Tiny's shape, a batch and the widest sizes equal double", Case,
                   chunked_scan_of<tiny, __nv_bfloat16>, chunked_scan_of<square, __nv_bfloat16>,
                   chunked_scan_of<padded, __nv_bfloat16>, chunked_scan_of<padded, __half>,
                   chunked_scan_of<widest, __half>) {
  device_scan<Case> f{2, Case::shape.headdim == 128 ? 150 : 257};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: long sequences equal double", Case, chunked_scan_of<few, __nv_bfloat16>,
                   chunked_scan_of<least, __half>) {
  device_scan<Case> f{1, 785};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: the longest sequences equal double [long]", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<square, __half>) {
  device_scan<Case> f{1, 3137};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: heads that forget nothing, and heads that forget at once", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<square, __half>,
                   chunked_scan_of<heads_of<24>, __nv_bfloat16>) {
  check_extreme_decays<Case>(270);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: no step is no gradient but that of D and of the step itself", Case,
                   chunked_scan_of<least, __nv_bfloat16>) {
  check_no_steps<Case>(130);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: a slow decay's gradient keeps its digits over chunks", Case,
                   chunked_scan_of<few, __nv_bfloat16>) {
  check_slow_decay<Case>(400);
}

TEST_CASE("cuda ssd_backward_chunked: every set of sequences has its own A and D") {
  check_sets<chunked_scan_of<least, __nv_bfloat16>>(70);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: two runs give the same bits, also with one unit in memory at a time",
                   Case, chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<sliced, __half>,
                   chunked_scan_of<heads_of<24>, __nv_bfloat16>) {
  check_same_bits<Case>(200, 99 << 10);
}

TEST_CASE("cuda ssd_backward_chunked: more sequences than the scratch holds go in slices of one size") {
  using form = cuda::detail::ssd::backward_chunked<tiny, __nv_bfloat16>;
  cuda::context<> ctx;
  auto const bytes = [&](int sequences) { return form::scratch_bytes(sequences, 3137, ctx.device()); };
  CHECK(bytes(64) == bytes(32));
  CHECK(bytes(64) < form::most_scratch + (std::size_t{1} << 20));
  CHECK(bytes(32) > bytes(31));
}

TEST_CASE("cuda ssd_backward_chunked: no sequences are no work") {
  check_no_sequences<chunked_scan_of<least, __nv_bfloat16>>();
}

TEST_CASE("cuda ssd_backward_chunked: calls that do not fit are left to another form") {
  using cuda::detail::ssd::backward_chunked;
  device_scan<chunked_scan_of<tiny, __nv_bfloat16>> const f{1, 257};
  CHECK_FALSE(f.fits([](auto& p) { ++p.x; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.db_stride; }));
  CHECK(f.fits(99 << 10));
  CHECK_FALSE(f.fits(64 << 10));
  CHECK(backward_chunked<widest, __half>::possible);
  CHECK(backward_chunked<padded, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_chunked<heads_of<12>, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_chunked<tiny, float>::possible);
  CHECK_FALSE(backward_chunked<one_group, __nv_bfloat16>::possible);
}
