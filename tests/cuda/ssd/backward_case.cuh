/// @file
/// A batch of sequences for a form of the scan's backward, with its gradients in double.
#pragma once

#include <dm2/cuda/ssd/backward_chunked.cuh>
#include <dm2/cuda/ssd/backward_quadratic.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/case.cuh"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace dm2::test {

/// What a gradient may be off: it is a sum of products of numbers that were rounded, up to three times on their way
/// (scores, their decay, the result), each time by at most half a unit in the last place of T.
template <class T>
constexpr double gradient_tolerance = 1.5 * rounding_tolerance<T>;
/// dA is one number a head: the sum of many of both signs, and so are the errors relative to it.
template <class T>
constexpr double sum_tolerance = 4 * rounding_tolerance<T>;

template <mixer_shape M, class T>
struct scan_of {
  static constexpr mixer_shape shape = M;
  using element = T;
  using form = cuda::detail::ssd::backward_quadratic<M, T>;
  static constexpr double tolerance = gradient_tolerance<T>, total_tolerance = sum_tolerance<T>;
};

template <mixer_shape M, class T>
struct chunked_scan_of {
  static constexpr mixer_shape shape = M;
  using element = T;
  using form = cuda::detail::ssd::backward_chunked<M, T>;
  static constexpr double tolerance = gradient_tolerance<T>, total_tolerance = sum_tolerance<T>;
};

/// A batch on the device, and the same in double from the rounded numbers. x, B and C lie in one row, and so do their
/// gradients; dy has a row of its own, with a gap behind it.
template <class Case>
struct device_scan {
  static constexpr mixer_shape M = Case::shape;
  using T = typename Case::element;
  using form = typename Case::form;
  static constexpr int width = M.d_inner(), states = M.groups * M.d_state, row = width + 2 * states, gap = 8;
  ssd_case<M> host;
  device_array<T> in, dy, out;
  device_array<float> dt, a, d, ddt, da, dd;

  explicit device_scan(ssd_case<M> f) : host{rounded_case<T>(std::move(f))} {
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
  [[nodiscard]] cuda::detail::ssd::backward_operands<M, T> operands() const {
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
  /// False where the device has too little shared memory. `most` bytes of it may be used. The work is cut up for so
  /// many multiprocessors; 0: the device's.
  bool launch(cuda::detail::ssd::backward_operands<M, T> const& p, int most = 227 << 10, int multiprocessors = 0) {
    cuda::context<> ctx;
    auto device = ctx.device();
    if (multiprocessors != 0) device.multiprocessors = multiprocessors;
    bool const large = device.shared_per_block >= most;
    device.shared_per_block = std::min(device.shared_per_block, most);
    bool const fits = form::fits(p, device);
    CHECK((fits || !large));
    if (!fits) return false;
    cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
    arena& memory = ctx.shared();
    if (!ctx.reserve(form::scratch_bytes(p.sequences, p.length, device))) return false;
    arena_scope const scope{memory};
    std::byte* const scratch = memory.take<std::byte>(form::scratch_bytes(p.sequences, p.length, device));
    form::launch(p, scratch, device, ctx.stream());
    cuda::check(cudaStreamSynchronize(ctx.stream()), "the gradients");  // its scratch goes with the context
    return true;
  }
  /// Whether the form takes the operands, with a change to them and with so much shared memory; 0: the device's.
  template <class Change>
  [[nodiscard]] bool fits(Change const& change, int shared = 0) const {
    auto p = operands();
    change(p);
    cuda::context<> ctx;
    auto device = ctx.device();
    if (shared != 0) device.shared_per_block = shared;
    return form::fits(p, device);
  }
  [[nodiscard]] bool fits(int shared) const {
    return fits([](auto const&) {}, shared);
  }
  /// Every gradient against double.
  void check() {
    if (launch(operands())) compare();
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
  [[nodiscard]] static std::vector<double> total(std::vector<double> const& all) {
    std::vector<double> sum(M.heads);
    for (std::size_t i = 0; i < all.size(); ++i) sum[i % M.heads] += all[i];
    return sum;
  }
  void compare() {
    host.backward();
    CHECK(relative_error(columns(0, width), host.dx) < Case::tolerance);
    CHECK(relative_error(columns(width, states), host.db) < Case::tolerance);
    CHECK(relative_error(columns(width + states, states), host.dc) < Case::tolerance);
    CHECK(relative_error(ddt.read(), host.ddt) < Case::tolerance);
    if (host.length > 1) CHECK(relative_error(total(da.read()), host.da) < Case::total_tolerance);
    CHECK(relative_error(total(dd.read()), host.dd) < Case::total_tolerance);
    for (auto const* v : {&ddt, &da, &dd}) CHECK(v->margins_untouched());
    CHECK(out.margins_untouched());
  }
};

/// Heads that forget nothing, and heads that forget at once.
template <class Case>
void check_extreme_decays(int length) {
  auto host = random_ssd<Case::shape>(1, length);
  for (double& rate : host.a) rate = -16;  // exp(-320) is no float, exp(-1.6e-8) is 1
  for (std::size_t i = 0; i < host.dt.size(); ++i) host.dt[i] = i % 37 == 5 ? 20 : i % 3 == 0 ? 0 : 1e-9;
  device_scan<Case>{std::move(host)}.check();
}

/// Steps of zero: the states stay, and only D and the steps have gradients.
template <class Case>
void check_no_steps(int length) {
  auto host = random_ssd<Case::shape>(1, length);
  host.dt.assign(host.dt.size(), 0);
  device_scan<Case>{std::move(host)}.check();
}

template <class Case>
void check_slow_decay(int length) {
  auto host = random_ssd<Case::shape>(1, length);
  for (double& rate : host.a) rate = -0.01;  // all tokens weigh alike: the sums of rows and of columns are far larger
  device_scan<Case>{std::move(host)}.check();
}

/// Three sets of two sequences, each with its own A and D, cut up for so many multiprocessors; 0: the device's.
template <class Case>
void check_sets(int length, int multiprocessors = 0) {
  using scan = device_scan<Case>;
  constexpr int heads = scan::M.heads, sets = 3;
  scan all{2 * sets, length};
  std::vector<double> a, d;
  for (int i = 0; i < sets * heads; ++i) a.push_back(-1 - 3 * i), d.push_back(0.5 * i);
  all.a = device_array<float>{a}, all.d = device_array<float>{d};
  auto p = all.operands();
  p.set_size = 2;
  if (!all.launch(p, 227 << 10, multiprocessors)) return;
  for (int set = 0; set < sets; ++set) {
    auto one = random_ssd<scan::M>(2, length);
    auto const part = [&](std::vector<double> const& v) {
      std::size_t const n = v.size() / sets;
      return std::vector<double>(v.begin() + std::ptrdiff_t(n) * set, v.begin() + std::ptrdiff_t(n) * (set + 1));
    };
    one.x = part(all.host.x), one.dt = part(all.host.dt), one.b = part(all.host.b), one.c = part(all.host.c);
    one.dy = part(all.host.dy), one.a = part(a), one.d = part(d);
    one.backward();
    CHECK(relative_error(part(all.columns(0, scan::width)), one.dx) < Case::tolerance);
    CHECK(relative_error(part(all.ddt.read()), one.ddt) < Case::tolerance);
    CHECK(relative_error(scan::total(part(all.da.read())), one.da) < Case::total_tolerance);
  }
}

/// No sequences are no work, and nothing is written.
template <class Case>
void check_no_sequences() {
  device_scan<Case> f{1, 7};
  auto p = f.operands();
  p.sequences = 0;
  f.launch(p);
  CHECK(untouched(f.out.read()));
  CHECK(untouched(f.ddt.read()));
}

/// Two runs, also with so little shared memory that one unit is there at a time.
template <class Case>
void check_same_bits(int length, int least_shared) {
  device_scan<Case> f{2, length};
  if (!f.launch(f.operands())) return;
  auto const out = f.out.read(), ddt = f.ddt.read(), da = f.da.read(), dd = f.dd.read();
  for (int const shared : {227 << 10, least_shared}) {
    f.out = device_array<typename Case::element>{out.size()}, f.ddt = device_array<float>{ddt.size()};
    f.da = device_array<float>{da.size()}, f.dd = device_array<float>{dd.size()};
    if (!f.launch(f.operands(), shared)) continue;
    CHECK(f.out.read() == out);
    CHECK(f.ddt.read() == ddt);
    CHECK(f.da.read() == da);
    CHECK(f.dd.read() == dd);
  }
}

}  // namespace dm2::test
