#include <dm2/cuda/ssd_backward_quadratic.cuh>

#include <doctest/doctest.h>

#include "cpu/ssd_case.hpp"
#include "cuda/device_array.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <limits>
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
constexpr mixer_shape widest{.heads = 1, .headdim = 128, .d_state = 256, .groups = 1, .d_conv = 4};

template <mixer_shape M, class T>
struct scan_of {
  static constexpr mixer_shape shape = M;
  using element = T;
};

/// What a gradient may be off: it is a sum of products of numbers that were rounded, up to three times on their way
/// (scores, their decay, the result), each time by at most half a unit in the last place of T.
template <class T>
constexpr double tolerance = 1.5 * rounding_tolerance<T>;
/// dA is one number a head: the sum of many of both signs, and so are the errors relative to it.
template <class T>
constexpr double total_tolerance = 4 * rounding_tolerance<T>;

/// A batch on the device, and the same in double from the rounded numbers. x, B and C lie in one row, and so do their
/// gradients; dy has a row of its own, with a gap behind it.
template <class Case>
struct device_scan {
  static constexpr mixer_shape M = Case::shape;
  using T = typename Case::element;
  using form = cuda::detail::ssd_backward_quadratic<M, T>;
  static constexpr int width = M.d_inner(), states = M.groups * M.d_state, row = width + 2 * states, gap = 8;
  ssd_case<M> host;
  device_array<T> in, dy, out;
  device_array<float> dt, a, d, ddt, da, dd;

  explicit device_scan(ssd_case<M> f) : host{std::move(f)} {
    host.x = rounded<T>(host.x), host.b = rounded<T>(host.b), host.c = rounded<T>(host.c);
    host.dy = rounded<T>(host.dy);
    host.dt = rounded<float>(host.dt), host.a = rounded<float>(host.a), host.d = rounded<float>(host.d);
    std::vector<double> rows, gradient;
    for (int i = 0; i < host.batch * host.length; ++i) {
      append(rows, host.x, i, width), append(rows, host.b, i, states), append(rows, host.c, i, states);
      append(gradient, host.dy, i, width);
      gradient.insert(gradient.end(), gap, std::numeric_limits<double>::quiet_NaN());
    }
    in = device_array<T>{rows}, dy = device_array<T>{gradient}, out = device_array<T>{rows.size()};
    dt = device_array<float>{host.dt}, a = device_array<float>{host.a}, d = device_array<float>{host.d};
    ddt = device_array<float>{host.dt.size()};
    da = device_array<float>{std::size_t(host.batch) * M.heads};
    dd = device_array<float>{std::size_t(host.batch) * M.heads};
  }
  device_scan(int batch, int length) : device_scan(random_ssd<M>(batch, length)) {}

  static void append(std::vector<double>& to, std::vector<double> const& from, int i, int n) {
    to.insert(to.end(), from.begin() + std::ptrdiff_t{i} * n, from.begin() + std::ptrdiff_t{i + 1} * n);
  }
  [[nodiscard]] cuda::detail::ssd_backward_operands<M, T> operands() const {
    return {.x = in.data(),
            .b = in.data() + width,
            .c = in.data() + width + states,
            .dy = dy.data(),
            .dt = dt.data(),
            .a = a.data(),
            .d = d.data(),
            .dx = out.data(),
            .db = out.data() + width,
            .dc = out.data() + width + states,
            .ddt = ddt.data(),
            .da = da.data(),
            .d_skip = dd.data(),
            .x_stride = row,
            .b_stride = row,
            .c_stride = row,
            .dy_stride = width + gap,
            .dx_stride = row,
            .db_stride = row,
            .dc_stride = row,
            .sequences = host.batch,
            .length = host.length,
            .set_size = host.batch};
  }
  void backward() {
    cuda::context<> ctx;
    REQUIRE(form::fits(operands(), ctx.device()));
    cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
    form::launch(operands(), nullptr, ctx.device(), ctx.stream());
  }
  /// Columns of the gradient's rows.
  [[nodiscard]] std::vector<double> columns(int first, int n) const {
    auto const all = out.read();
    std::vector<double> values;
    for (std::size_t i = std::size_t(first); i < all.size(); i += row)
      values.insert(values.end(), all.begin() + std::ptrdiff_t(i), all.begin() + std::ptrdiff_t(i) + n);
    return values;
  }
  /// The sum over sequences.
  [[nodiscard]] static std::vector<double> total(device_array<float> const& parts) {
    std::vector<double> sum(M.heads);
    auto const all = parts.read();
    for (std::size_t i = 0; i < all.size(); ++i) sum[i % M.heads] += all[i];
    return sum;
  }
  void check() {
    host.backward();
    CHECK(relative_error(columns(0, width), host.dx) < tolerance<T>);
    CHECK(relative_error(columns(width, states), host.db) < tolerance<T>);
    CHECK(relative_error(columns(width + states, states), host.dc) < tolerance<T>);
    CHECK(relative_error(ddt.read(), host.ddt) < tolerance<T>);
    if (host.length > 1) CHECK(relative_error(total(da), host.da) < total_tolerance<T>);
    CHECK(relative_error(total(dd), host.dd) < total_tolerance<T>);
    for (auto const* v : {&ddt, &da, &dd}) CHECK(v->margins_untouched());
    CHECK(out.margins_untouched());
  }
};

}  // namespace

#define DM2_QUADRATIC_SCANS                                                                                   \
  scan_of<few, __nv_bfloat16>, scan_of<few, __half>, scan_of<sliced, __nv_bfloat16>, scan_of<square, __half>, \
      scan_of<least, __nv_bfloat16>, scan_of<lone, __half>

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: every gradient equals double's at lengths around the tiles'", Case,
                   DM2_QUADRATIC_SCANS) {
  for (int const length : {1, 2, 15, 16, 17, 33, 64, 81, 197, 208}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.backward();
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_quadratic: Tiny's shape, a batch and the widest sizes equal double", Case,
                   scan_of<tiny, __nv_bfloat16>, scan_of<square, __nv_bfloat16>, scan_of<widest, __half>) {
  device_scan<Case> f{2, Case::shape.headdim == 128 ? 100 : 197};
  f.backward();
  f.check();
}
