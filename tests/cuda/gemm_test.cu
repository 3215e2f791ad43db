#include <dm2/cuda/gemm.cuh>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::op;

namespace {

/// c = op(a) op(b) + addend + bias, and what it must be.
template <cuda::precision P, class U>
struct product_case {
  using T = cuda::element<P>;
  int m, n, k;
  cuda::context<P> ctx;
  random_source random{17};
  std::vector<double> a, b, addend, bias;
  device_array<T> da, db;
  device_array<U> dadd, c;
  device_array<float> dbias;

  product_case(int rows, int columns, int depth)
      : m{rows},
        n{columns},
        k{depth},
        a{rounded<T>(random.normal(size(m, k)))},
        b{rounded<T>(random.normal(size(n, k)))},
        addend{rounded<U>(random.normal(size(m, n), 10))},
        bias{rounded<float>(random.normal(std::size_t(n), 10))},
        da{a},
        db{b},
        dadd{addend},
        c{size(m, n)},
        dbias{bias} {}

  static std::size_t size(int rows, int columns) { return std::size_t(rows) * std::size_t(columns); }
  static std::vector<double> transposed(std::vector<double> const& x, int columns) {
    int const rows = int(x.size()) / columns;
    std::vector<double> y(x.size());
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) y[size(c, rows) + std::size_t(r)] = x[size(r, columns) + std::size_t(c)];
    return y;
  }
  [[nodiscard]] std::vector<double> want(bool with_addend, bool with_bias) const {
    auto y = naive::linear(a, b, with_bias ? bias : std::vector<double>{}, k, n);
    for (std::size_t i = 0; i < y.size() && with_addend; ++i) y[i] += addend[i];
    return y;
  }
  /// The factors lie so that op makes a [m, k] and b^T [k, n] of them. Own: by the kernel for what cuBLASLt has not.
  template <op A, op B, bool Own = false>
  void run(cuda::product_addends<U> plus = {}) {
    if (A == op::transposed) da = device_array<T>{transposed(a, k)};
    if (B == op::plain) db = device_array<T>{transposed(b, k)};
    cuda::matrix<T const> const left{da.data(), A == op::plain ? m : k, A == op::plain ? k : m};
    cuda::matrix<T const> const right{db.data(), B == op::plain ? k : n, B == op::plain ? n : k};
    if constexpr (Own)
      cuda::detail::own_product<A == op::transposed, B == op::transposed>(
          ctx.stream(), cuda::detail::product_factor<T>{left.data, left.stride},
          cuda::detail::product_factor<T>{right.data, right.stride}, c.data(), plus.matrix, plus.bias, n, {m, n, k});
    else
      cuda::gemm<A, B>(ctx, left, right, cuda::matrix<U>{c.data(), m, n}, plus);
  }
  void check(bool with_addend, bool with_bias) const {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    double const tolerance = std::max(product_tolerance<P>, rounding_tolerance<U>);
    CHECK(relative_error(c.read(), want(with_addend, with_bias)) < tolerance);
    CHECK(c.margins_untouched());
  }
};

/// Every form of a product of these extents.
template <cuda::precision P, class U, bool Own = false>
void check_products(int m, int n, int k) {
  using F = product_case<P, U>;
  F plain{m, n, k};
  plain.template run<op::plain, op::transposed, Own>();
  plain.check(false, false);
  F both{m, n, k};
  both.template run<op::plain, op::transposed, Own>({both.dadd.data(), both.dbias.data()});
  both.check(true, true);
  F in_place{m, n, k};
  in_place.c = device_array<U>{in_place.addend};
  in_place.template run<op::plain, op::transposed, Own>({in_place.c.data(), nullptr});
  in_place.check(true, false);
  F left{m, n, k};
  left.template run<op::transposed, op::plain, Own>({nullptr, left.dbias.data()});
  left.check(false, true);
  F right{m, n, k};
  right.template run<op::plain, op::plain, Own>();
  right.check(false, false);
}

}  // namespace

TEST_CASE_TEMPLATE("gemm: equals the sum over the inner extent, in each form, with addend and bias", P,
                   DM2_PRECISIONS) {
  std::array<int, 3> const extents[]{{1, 1, 1}, {3, 5, 7}, {65, 33, 31}, {64, 192, 96}, {197, 1032, 192}};
  for (auto const [m, n, k] : extents) {
    check_products<P::value, cuda::element<P::value>>(m, n, k);
    check_products<P::value, float>(m, n, k);
  }
}

TEST_CASE_TEMPLATE("gemm: the kernel for what the library has not equals the sum, in each form", P, DM2_PRECISIONS) {
  std::array<int, 3> const extents[]{{1, 1, 1}, {63, 65, 7}, {64, 64, 16}, {65, 33, 31}, {129, 127, 33}};
  for (auto const [m, n, k] : extents) {
    check_products<P::value, cuda::element<P::value>, true>(m, n, k);
    check_products<P::value, float, true>(m, n, k);
  }
}

TEST_CASE_TEMPLATE("gemm: a bias is added to rows with a stride, and not between them", P, DM2_PRECISIONS) {
  using F = product_case<P::value, cuda::element<P::value>>;
  for (int const columns : {1, 255, 257}) {
    F f{3, columns + 2, 1};
    cuda::detail::add_bias(f.ctx.stream(), f.dadd.data(), 3, columns, columns + 2, f.dbias.data());
    auto want = f.addend;
    for (int i = 0; i < 3 * (columns + 2); ++i)
      if (int const column = i % (columns + 2); column < columns) want[std::size_t(i)] += f.bias[std::size_t(column)];
    CHECK(relative_error(f.dadd.read(), want) < rounding_tolerance<typename F::T>);
    CHECK(f.dadd.margins_untouched());
    for (int row = 0; row < 3; ++row)
      for (std::size_t const at = std::size_t((row + 1) * (columns + 2)); std::size_t const i : {at - 2, at - 1})
        CHECK(f.dadd.read()[i] == f.addend[i]);
  }
}

TEST_CASE_TEMPLATE("gemm: rows with a stride, and addresses that no packet starts at", P, DM2_PRECISIONS) {
  using F = product_case<P::value, float>;
  F f{17, 9, 16};
  auto const spread = [](std::vector<double> const& x, int columns, int stride) {
    std::vector<double> y(x.size() / std::size_t(columns) * std::size_t(stride) + 1, 1e4);
    for (std::size_t i = 0; i < x.size(); ++i)
      y[1 + i / std::size_t(columns) * std::size_t(stride) + i % std::size_t(columns)] = x[i];
    return y;
  };
  using T = typename F::T;
  f.da = device_array<T>{spread(f.a, 16, 19)};
  f.db = device_array<T>{spread(f.b, 16, 24)};
  cuda::gemm<op::plain, op::transposed>(f.ctx, cuda::matrix<T const>{f.da.data() + 1, 17, 16, 19},
                                        cuda::matrix<T const>{f.db.data() + 1, 9, 16, 24},
                                        cuda::matrix<float>{f.c.data(), 17, 9});
  f.check(false, false);
}

TEST_CASE("gemm: fp32 is float, not TF32") {
  product_case<cuda::precision::fp32, float> f{64, 192, 768};
  f.run<op::plain, op::transposed>();
  CHECK(relative_error(f.c.read(), f.want(false, false)) < 1e-6);
}

TEST_CASE_TEMPLATE("gemm: the library computes the network's products", P, DM2_PRECISIONS) {
  using F = product_case<P::value, cuda::element<P::value>>;
  F f{197, 1032, 192};
  using T = typename F::T;
  cuda::matrix<T const> const a{f.da.data(), 197, 192}, b{f.db.data(), 1032, 192};
  cuda::matrix<T> const c{f.c.data(), 197, 1032};
  T const* const none = nullptr;
  CHECK(cuda::detail::find_product<op::plain, op::transposed>(f.ctx, a, b, c, none, nullptr).found);
  CHECK(cuda::detail::find_product<op::plain, op::transposed>(f.ctx, a, b, c, none, f.dbias.data()).found);
}

TEST_CASE_TEMPLATE("gemm: a plan makes the algorithm and the memory, and two runs give the same bits", P,
                   DM2_PRECISIONS) {
  product_case<P::value, float> f{197, 192, 768};
  cuda::product_addends<float> const plus{f.dadd.data(), f.dbias.data()};
  f.ctx.plan([&] { f.template run<op::plain, op::transposed>(plus); });
  for (double v : f.c.read()) REQUIRE(v != v);
  std::size_t const plans = f.ctx.products().size(), bytes = f.ctx.scratch_bytes();
  f.template run<op::plain, op::transposed>(plus);
  auto const once = f.c.read();
  f.template run<op::plain, op::transposed>(plus);
  CHECK(f.c.read() == once);
  f.check(true, true);
  CHECK(f.ctx.products().size() == plans);
  CHECK(f.ctx.scratch_bytes() == bytes);
}

TEST_CASE("gemm: extents that disagree are refused by name, and nothing is written") {
  product_case<cuda::precision::fp32, float> f{4, 5, 6};
  auto const call = [&](int rows, int inner, int columns) {
    return shape_message([&] {
      cuda::gemm<op::plain, op::transposed>(f.ctx, cuda::matrix<float const>{f.da.data(), rows, 6},
                                            cuda::matrix<float const>{f.db.data(), columns, inner},
                                            cuda::matrix<float>{f.c.data(), 4, 5});
    });
  };
  CHECK(call(3, 6, 5) == "gemm.a rows of the result: got 3, expected 4");
  CHECK(call(4, 6, 4) == "gemm.b columns of the result: got 4, expected 5");
  CHECK(call(4, 5, 5) == "gemm.b inner extent: got 5, expected 6");
  for (double v : f.c.read()) CHECK(v != v);
}
