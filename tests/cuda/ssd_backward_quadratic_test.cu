#include <doctest/doctest.h>

#include "cuda/ssd_backward_case.cuh"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr mixer_shape tiny{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
/// Tiny's heads, but few of them.
constexpr mixer_shape few{.heads = 2, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
/// Heads in two slices.
constexpr mixer_shape sliced{.heads = 2, .headdim = 96, .d_state = 64, .groups = 1, .d_conv = 4};
constexpr mixer_shape square{.heads = 4, .headdim = 64, .d_state = 64, .groups = 2, .d_conv = 4};
constexpr mixer_shape least{.heads = 4, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4};
/// One head a group, so that a block has no second unit, and an odd number of 16s in both sizes.
constexpr mixer_shape lone{.heads = 2, .headdim = 48, .d_state = 48, .groups = 2, .d_conv = 4};
/// A unit's operands are smaller than a part of B and C.
constexpr mixer_shape narrow{.heads = 3, .headdim = 16, .d_state = 32, .groups = 1, .d_conv = 4};
constexpr mixer_shape widest{.heads = 1, .headdim = 128, .d_state = 256, .groups = 1, .d_conv = 4};

}  // namespace

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

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: up to 256 tokens equal double", Case, scan_of<few, __nv_bfloat16>,
                   scan_of<least, __half>) {
  for (int const length : {209, 225, 256}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: heads that forget nothing, and heads that forget at once", Case,
                   scan_of<few, __nv_bfloat16>, scan_of<square, __half>) {
  auto host = random_ssd<Case::shape>(1, 197);
  for (double& rate : host.a) rate = -16;  // exp(-320) is no float, exp(-1.6e-8) is 1
  for (std::size_t i = 0; i < host.dt.size(); ++i) host.dt[i] = i % 37 == 5 ? 20 : i % 3 == 0 ? 0 : 1e-9;
  device_scan<Case> f{std::move(host)};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: no step is no gradient but that of D and of the step itself", Case,
                   scan_of<least, __nv_bfloat16>) {
  auto host = random_ssd<Case::shape>(1, 50);
  host.dt.assign(host.dt.size(), 0);
  device_scan<Case> f{std::move(host)};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: a slow decay's gradient keeps its digits", Case,
                   scan_of<few, __nv_bfloat16>) {
  auto host = random_ssd<Case::shape>(1, 197);
  for (double& rate : host.a) rate = -0.01;  // all tokens weigh alike: the sums of rows and of columns are far larger
  device_scan<Case> f{std::move(host)};
  f.check();
}

TEST_CASE("cuda ssd_backward_quadratic: every set of sequences has its own A and D") {
  using scan = device_scan<scan_of<least, __nv_bfloat16>>;
  constexpr int heads = scan::M.heads, sets = 3, length = 20;
  scan all{2 * sets, length};
  std::vector<double> a, d;
  for (int i = 0; i < sets * heads; ++i) a.push_back(-1 - 3 * i), d.push_back(0.5 * i);
  all.a = device_array<float>{a}, all.d = device_array<float>{d};
  auto p = all.operands();
  p.set_size = 2;
  if (!all.launch(p)) return;
  for (int set = 0; set < sets; ++set) {
    auto one = random_ssd<scan::M>(2, length);
    auto const part = [&](std::vector<double> const& v) {
      std::size_t const n = v.size() / sets;
      return std::vector<double>(v.begin() + std::ptrdiff_t(n) * set, v.begin() + std::ptrdiff_t(n) * (set + 1));
    };
    one.x = part(all.host.x), one.dt = part(all.host.dt), one.b = part(all.host.b), one.c = part(all.host.c);
    one.dy = part(all.host.dy), one.a = part(a), one.d = part(d);
    one.backward();
    CHECK(relative_error(part(all.columns(0, scan::width)), one.dx) < tolerance<scan::T>);
    CHECK(relative_error(part(all.ddt.read()), one.ddt) < tolerance<scan::T>);
    CHECK(relative_error(scan::total(part(all.da.read())), one.da) < total_tolerance<scan::T>);
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: two runs give the same bits, also with one unit in memory at a time",
                   Case, scan_of<few, __nv_bfloat16>, scan_of<sliced, __half>) {
  device_scan<Case> f{2, 197};
  if (!f.launch(f.operands())) return;
  auto const out = f.out.read(), ddt = f.ddt.read(), da = f.da.read(), dd = f.dd.read();
  for (int const shared : {227 << 10, 163 << 10}) {
    f.out = device_array<typename Case::element>{out.size()}, f.ddt = device_array<float>{ddt.size()};
    f.da = device_array<float>{da.size()}, f.dd = device_array<float>{dd.size()};
    if (!f.launch(f.operands(), shared)) continue;
    CHECK(f.out.read() == out);
    CHECK(f.ddt.read() == ddt);
    CHECK(f.da.read() == da);
    CHECK(f.dd.read() == dd);
  }
}

TEST_CASE("cuda ssd_backward_quadratic: no sequences are no work") {
  device_scan<scan_of<least, __nv_bfloat16>> f{1, 7};
  auto p = f.operands();
  p.sequences = 0;
  f.launch(p);
  CHECK(untouched(f.out.read()));
  CHECK(untouched(f.ddt.read()));
}

TEST_CASE("cuda ssd_backward_quadratic: calls that do not fit are left to another form") {
  using cuda::detail::ssd_backward_quadratic;
  using form = ssd_backward_quadratic<tiny, __nv_bfloat16>;
  device_scan<scan_of<tiny, __nv_bfloat16>> f{1, 197};
  cuda::context<> ctx;
  auto const fits = [&](auto const& change) {
    auto p = f.operands();
    change(p);
    return form::fits(p, ctx.device());
  };
  CHECK_FALSE(fits([](auto& p) { p.length = 257; }));
  CHECK_FALSE(fits([](auto& p) { ++p.x; }));
  CHECK_FALSE(fits([](auto& p) { ++p.db_stride; }));
  auto small = ctx.device();
  small.shared_per_block = 99 << 10;
  CHECK_FALSE(form::fits(f.operands(), small));
  auto p = f.operands();
  p.length = 128;
  CHECK(form::fits(p, small));
  small.shared_per_block = 163 << 10;
  CHECK(form::fits(f.operands(), small));
  CHECK(ssd_backward_quadratic<tiny, __half>::possible);
  CHECK_FALSE(ssd_backward_quadratic<tiny, float>::possible);
  CHECK_FALSE(ssd_backward_quadratic<one_group, __nv_bfloat16>::possible);
}
