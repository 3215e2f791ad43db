#include <dm2/cuda/project_add_norm/few.cuh>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "cuda/support/device_array.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <numeric>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr float eps = 1e-5f;

/// One project-add-norm; U units, whose sums of squares scale the halves of g.
template <class Element, int Width, int Inner, int Wide, int Units, int RowTiles>
struct few_case {
  using T = Element;
  static constexpr int D = Width, K = Inner, N = Wide, U = Units, tiles = RowTiles;
  static constexpr auto P = std::is_same_v<T, __half> ? cuda::precision::fp16 : cuda::precision::bf16;
  std::size_t count;
  cuda::context<P> ctx;
  random_source random{37};
  std::vector<double> g, squares, before, out, out_bias, norm, in, in_bias;
  device_array<T> dg, dout, din, y;
  device_array<float> dsquares, dbefore, dout_bias, dnorm, din_bias, after, rstd;

  explicit few_case(std::size_t rows)
      : count{rows},
        g{rounded<T>(random.normal(count * K))},
        squares{random.normal(count * 2 * U)},
        before{rounded<float>(random.normal(count * D))},
        out{rounded<T>(random.normal(D * K, 0.1))},
        out_bias{rounded<float>(random.normal(D))},
        norm{rounded<float>(random.normal(D))},
        in{rounded<T>(random.normal(N * D, 0.07))},
        in_bias{rounded<float>(random.normal(N))},
        dg{g},
        dout{out},
        din{in},
        y{count * (N == 0 ? D : N)},
        dbefore{before},
        dout_bias{out_bias},
        dnorm{norm},
        din_bias{in_bias},
        after{count * D},
        rstd{count} {
    for (double& v : squares) v = double(float(v * v * K));
    dsquares = device_array<float>{squares};
  }
  [[nodiscard]] cuda::detail::project_add_norm::arguments<T> arguments() const {
    cuda::detail::project_add_norm::arguments<T> p{};
    p.g = dg.data(), p.squares = dsquares.data(), p.out = dout.data(), p.out_bias = dout_bias.data();
    p.before = dbefore.data(), p.after = after.data(), p.rstd = rstd.data();
    p.norm = dnorm.data(), p.in = din.data(), p.in_bias = din_bias.data(), p.y = y.data();
    p.count = int(count), p.eps = eps;
    return p;
  }
  void run(cuda::detail::project_add_norm::arguments<T> const& p) {
    cuda::detail::project_add_norm::launch_few<D, K, N, U, tiles>(ctx, p);
  }

  /// The new residual rows in double.
  [[nodiscard]] std::vector<double> sum() const {
    if constexpr (K == 0) {
      return before;
    } else {
      std::vector<double> scaled = g;
      if constexpr (U != 0)
        for (std::size_t i = 0; i < scaled.size(); ++i) {
          double const* const parts = squares.data() + i / (K / 2) * U;
          scaled[i] /= std::sqrt(std::accumulate(parts, parts + U, 0.0) * 2 / K + 1e-5);
        }
      std::vector<double> x = naive::linear(scaled, out, out_bias, K, D);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += before[i];
      return x;
    }
  }
};

using bf16 = __nv_bfloat16;

}  // namespace

TEST_CASE_TEMPLATE("cuda project_add_norm, few rows: equals double, with and without the norm's factors of g", F,
                   few_case<bf16, 192, 768, 1032, 8, 1>, few_case<bf16, 192, 768, 1032, 8, 4>,
                   few_case<__half, 192, 768, 576, 8, 4>, few_case<bf16, 192, 192, 1032, 0, 1>,
                   few_case<__half, 384, 1536, 1800, 16, 1>, few_case<bf16, 96, 96, 420, 0, 4>,
                   few_case<bf16, 96, 448, 20, 3, 1>, few_case<bf16, 64, 320, 4, 0, 1>,
                   few_case<bf16, 192, 768, 0, 8, 1>, few_case<bf16, 192, 0, 1032, 0, 4>) {
  for (std::size_t const count : {1u, 15u, 16u, 17u, 63u, 65u, 197u}) {
    CAPTURE(count);
    F f{count};
    f.run(f.arguments());
    auto const sum = f.sum();
    auto const normed = naive::rms_norm(sum, f.norm, eps);
    auto const want = F::N == 0 ? normed : naive::linear(normed, f.in, f.in_bias, F::D, F::N);
    if (F::K != 0) CHECK(relative_error(f.after.read(), sum) < 2e-6);
    CHECK(relative_error(f.y.read(), want) < product_tolerance<F::P>);
    auto const rstd = f.rstd.read();
    for (std::size_t r = 0; r < count; ++r) {
      double squares = 0;
      for (std::size_t c = 0; c < F::D; ++c) squares += sum[r * F::D + c] * sum[r * F::D + c];
      REQUIRE(std::abs(rstd[r] * std::sqrt(squares / F::D + eps) - 1) < 1e-5);
    }
    CHECK((f.after.margins_untouched() && f.y.margins_untouched() && f.rstd.margins_untouched()));
  }
}

TEST_CASE("cuda project_add_norm, few rows: the residual may be updated in place; nothing but it and y is written") {
  using F = few_case<bf16, 192, 768, 1032, 8, 1>;
  F f{33}, h{33};
  f.run(f.arguments());
  auto p = h.arguments();
  p.after = h.dbefore.data(), p.rstd = nullptr;
  h.run(p);
  CHECK(h.dbefore.read() == f.after.read());
  CHECK(h.y.read() == f.y.read());
  for (double v : h.rstd.read()) CHECK(v != v);
}

TEST_CASE(
    "cuda project_add_norm, few rows: blocks of 16 rows, then of 64, then none; sizes that there are no kernels for") {
  cuda::device_properties device{cuda::current_device()};
  device.multiprocessors = 132;
  auto const tiny = [&](std::size_t count) {
    return cuda::detail::project_add_norm::few_row_tiles<bf16, 192, 768, 1032, 8>(device, count);
  };
  CHECK(tiny(0) == 0);
  CHECK(tiny(197) == 1);
  CHECK(tiny(528) == 1);
  CHECK(tiny(529) == 4);
  CHECK(tiny(2112) == 4);
  CHECK(tiny(2113) == 0);
  CHECK(cuda::detail::project_add_norm::few_row_tiles<float, 192, 768, 1032, 8>(device, 197) == 0);
  CHECK(cuda::detail::project_add_norm::few_row_tiles<bf16, 7, 5, 3, 0>(device, 197) == 0);
}
