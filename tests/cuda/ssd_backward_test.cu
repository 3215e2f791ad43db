#include <dm2/cuda/ssd_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/case.cuh"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using scan_shapes::large, scan_shapes::least, scan_shapes::small, scan_shapes::square, scan_shapes::tiny;

template <mixer_shape M, class T>
struct scan_of {
  static constexpr mixer_shape shape = M;
  using element = T;
};

/// What the default precision's context is used for: the scan's numbers are those of its operands.
using context = cuda::context<>;

/// A batch on the device with its gradients, and the same in double from the rounded numbers.
template <class Case>
struct device_scan : scan_operands<Case::shape, typename Case::element> {
  using base = scan_operands<Case::shape, typename Case::element>;
  static constexpr mixer_shape M = Case::shape;
  using T = typename Case::element;
  using base::host, base::input, base::width, base::state;
  static constexpr double tolerance = cuda::is_half<T> ? rounding_tolerance<T> : 1e-5;
  device_array<T> dy{host.dy}, dx, db, dc;
  device_array<float> ddt, da, dd;

  explicit device_scan(ssd_case<M> f) : base{std::move(f)} { poison(); }
  device_scan(int batch, int length) : device_scan(random_ssd<M>(batch, length)) {}

  void poison() {
    dx = device_array<T>{host.x.size()}, db = device_array<T>{host.b.size()}, dc = device_array<T>{host.c.size()};
    ddt = device_array<float>{host.dt.size()};
    da = device_array<float>{std::vector<double>(M.heads)}, dd = device_array<float>{std::vector<double>(M.heads)};
  }
  [[nodiscard]] cuda::ssd_gradient<M, T> gradient() const {
    return {dx.template as_rows<width>(), ddt.template as_rows<M.heads>(), da.template as_block<M.heads>(),
            db.template as_rows<state>(), dc.template as_rows<state>(),    dd.template as_block<M.heads>()};
  }
  void backward(context& ctx) {
    cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
    cuda::ssd_backward(ctx, input(), dy.template as_rows<width>(), gradient());
  }
  /// What the device holds now, as one run of numbers.
  [[nodiscard]] std::vector<double> bits() const {
    std::vector<double> all;
    for (auto const& part : {dx.read(), db.read(), dc.read(), ddt.read(), da.read(), dd.read()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  /// Against double. In 16 bits dx, dB and dC are rounded once; in float sums over tokens and channels, some of which
  /// cancel, leave up to 1e-5.
  /// dA is a sum over all tokens of both signs, few numbers: rounding in operands does not average out.
  void check() {
    host.backward();
    near("dx", dx, host.dx), near("db", db, host.db), near("dc", dc, host.dc);
    near("ddt", ddt, host.ddt), near("da", da, host.da, (cuda::is_half<T> ? 3 : 1) * tolerance),
        near("dd", dd, host.dd);
  }
  template <class A>
  void near(std::string const& name, A const& got, std::vector<double> const& want, double allowed = tolerance) {
    CAPTURE(name);
    CAPTURE(host.length);
    bool const zero = std::all_of(want.begin(), want.end(), [](double v) { return std::abs(v) < 1e-6; });
    double const error = relative_error(got.read(), zero ? std::vector<double>(want.size()) : want);
    CAPTURE(error);
    CHECK(error < allowed);
    CHECK(got.margins_untouched());
  }
};

}  // namespace

#define DM2_SCANS                                                                                              \
  scan_of<least, __nv_bfloat16>, scan_of<least, float>, scan_of<one_group, float>, scan_of<two_groups, float>, \
      scan_of<two_groups, __half>, scan_of<one_group, __nv_bfloat16>

TEST_CASE_TEMPLATE("cuda ssd_backward: equals double at lengths around the tiles'", Case, DM2_SCANS) {
  context ctx;
  for (int const length : {1, 15, 17, 63, 64, 65, 127, 128, 129, 197}) {
    device_scan<Case> f{2, length};
    f.backward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward: equals double at the sizes of models", Case, scan_of<tiny, __nv_bfloat16>,
                   scan_of<tiny, float>, scan_of<small, __nv_bfloat16>, scan_of<square, __half>, scan_of<square, float>,
                   scan_of<large, float>) {
  context ctx;
  for (int const length : {1, 65, 197}) {
    device_scan<Case> f{1, length};
    f.backward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward: sequences longer than the quadratic form takes equal double", Case,
                   scan_of<tiny, __nv_bfloat16>, scan_of<square, __half>, scan_of<least, __nv_bfloat16>) {
  context ctx;
  for (int const length : {256, 257, 320, 785}) {
    device_scan<Case> f{1, length};
    f.backward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward: long sequences equal double [long]", Case, scan_of<tiny, __nv_bfloat16>,
                   scan_of<tiny, float>, scan_of<two_groups, __half>) {
  context ctx;
  for (int const length : {785, 3137}) {
    device_scan<Case> f{1, length};
    f.backward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward: heads that forget nothing and heads that forget at once equal double", Case,
                   DM2_SCANS) {
  context ctx;
  for (bool const one : {false, true}) {
    auto host = random_ssd<Case::shape>(1, 129);
    for (std::size_t i = 0; i < host.dt.size(); ++i)
      host.dt[i] = one ? (i % 37 == 5 ? 50 : 0.01) : (i % 2 == 0 ? 1e-9 : 20);
    if (!one)
      for (double& rate : host.a) rate = -16;  // exp(-320) is no float, exp(-1.6e-8) is 1
    device_scan<Case> f{std::move(host)};
    f.backward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward: gradients of A and D are added to, two runs give the same bits", Case,
                   DM2_SCANS) {
  context ctx;
  device_scan<Case> f{3, 65};
  f.backward(ctx);
  auto const once = f.bits();
  auto const da = f.da.read(), dd = f.dd.read();
  f.backward(ctx);
  for (std::size_t i = 0; i < da.size(); ++i) {
    CHECK(f.da.read()[i] == 2 * da[i]);
    CHECK(f.dd.read()[i] == 2 * dd[i]);
  }
  f.poison();
  f.backward(ctx);
  CHECK(f.bits() == once);
}

TEST_CASE("cuda ssd_backward: many sequences give what each gives, and A and D their sum") {
  context ctx;
  device_scan<scan_of<least, float>> many{70, 5};
  many.backward(ctx);
  many.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward: a planned call allocates nothing, and a plan writes nothing", Case,
                   scan_of<least, __nv_bfloat16>, scan_of<one_group, float>) {
  context ctx;
  device_scan<Case> f{2, 65};
  ctx.plan([&] { f.backward(ctx); });
  CHECK(untouched(f.dx.read()));
  std::size_t const planned = ctx.scratch_bytes();
  f.backward(ctx);
  CHECK(ctx.scratch_bytes() == planned);
  f.check();
}

TEST_CASE("cuda ssd_backward: operands that are aligned to their numbers only are read") {
  context ctx;
  device_scan<scan_of<least, __nv_bfloat16>> f{2, 65};
  auto values = f.host.x;
  values.insert(values.begin(), 0);
  device_array<__nv_bfloat16> const shifted{values};
  auto in = f.input();
  in.x.data = shifted.data() + 1;
  cuda::ssd_backward(ctx, in, f.dy.as_rows<64>(), f.gradient());
  f.check();
}

TEST_CASE("cuda ssd_backward: operands that disagree are refused by name, and nothing is written") {
  context ctx;
  device_scan<scan_of<least, __nv_bfloat16>> f{2, 7};
  auto const message = [&](auto const& spoil) {
    auto in = f.input();
    auto dy = f.dy.as_rows<64>();
    auto grad = f.gradient();
    spoil(in, dy, grad);
    std::string const text = shape_message([&] { cuda::ssd_backward(ctx, in, dy, grad); });
    CHECK(untouched(f.dx.read()));
    return text;
  };
  CHECK(message([](auto& in, auto&, auto&) { in.length = 5; }) ==
        "ssd.x: got 14 rows, expected a multiple of the length 5");
  CHECK(message([](auto& in, auto&, auto&) { in.b.count = 13; }) == "ssd.b rows: got 13, expected 14");
  CHECK(message([](auto&, auto& dy, auto&) { dy.count = 13; }) == "ssd_backward.dy rows: got 13, expected 14");
  CHECK(message([](auto&, auto&, auto& g) { g.x.count = 15; }) == "ssd_backward.grad.x rows: got 15, expected 14");
  CHECK(message([](auto&, auto&, auto& g) { g.dt.count = 13; }) == "ssd_backward.grad.dt rows: got 13, expected 14");
  CHECK(message([](auto&, auto&, auto& g) { g.b.count = 13; }) == "ssd_backward.grad.b rows: got 13, expected 14");
  CHECK(message([](auto&, auto&, auto& g) { g.c.count = 13; }) == "ssd_backward.grad.c rows: got 13, expected 14");
}

TEST_CASE("cuda ssd_backward: no sequences are no work") {
  context ctx;
  device_scan<scan_of<least, __nv_bfloat16>> f{1, 7};
  auto in = f.input();
  auto grad = f.gradient();
  in.x.count = in.dt.count = in.b.count = in.c.count = 0;
  grad.x.count = grad.dt.count = grad.b.count = grad.c.count = 0;
  cuda::ssd_backward(ctx, in, {f.dy.data(), 0}, grad);
  CHECK(untouched(f.dx.read()));
}
