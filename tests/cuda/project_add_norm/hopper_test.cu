#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm/hopper.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// One project-add-norm, on both sides; U sums of squares for each half of g.
template <class T, int D, int K, int N, int U>
struct hopper_case {
  using traits = cuda::detail::project_add_norm::hopper_traits<T, D, K, N, U>;
  static constexpr double tolerance = std::is_same_v<T, __half> ? 8e-4 : 6e-3;
  std::size_t count;
  random_source random{83};
  std::vector<double> g, squares, before, out, out_bias, norm, in, in_bias, after, rstd, y;
  device_array<T> g_, out_, in_, y_;
  device_array<float> squares_, before_, out_bias_, norm_, in_bias_, after_, rstd_;

  explicit hopper_case(std::size_t rows)
      : count{rows},
        g{rounded<T>(random.normal(count * K))},
        squares{rounded<float>(random.uniform(count * 2 * U, 1.0, 60.0))},
        before{rounded<float>(random.normal(count * D))},
        out{rounded<T>(random.normal(D * K, 0.05))},
        out_bias{rounded<float>(random.normal(D))},
        norm{rounded<float>(random.normal(D))},
        in{rounded<T>(random.normal(N * D, 0.07))},
        in_bias{rounded<float>(random.normal(N))},
        after{poisoned(count * D)},
        rstd{poisoned(count)},
        y{poisoned(count * traits::result)},
        g_{g},
        out_{out},
        in_{in},
        y_{y.size()},
        squares_{squares},
        before_{before},
        out_bias_{out_bias},
        norm_{norm},
        in_bias_{in_bias},
        after_{after.size()},
        rstd_{rstd.size()} {}

  [[nodiscard]] auto next() const {
    return norm_projection<double const, N, D>{as_block<D>(norm), {as_block<N, D>(in), as_block<N>(in_bias)}};
  }
  void run_host() {
    cpu::context<double> ctx{2};
    norm_point<double, D> const point{as_rows<D>(K == 0 ? after = before : after), rstd.data()};
    if constexpr (K == 0) {
      cpu::norm_project(ctx, point, next(), 1e-5, as_rows<N>(y));
    } else {
      scale();
      linear_parameters<double const, D, K> const first{as_block<D, K>(std::as_const(out)),
                                                        as_block<D>(std::as_const(out_bias))};
      auto const from = as_rows<K>(std::as_const(g));
      auto const old = as_rows<D>(std::as_const(before));
      if constexpr (N == 0)
        cpu::project_add_norm(ctx, from, first, old, point, as_block<D>(std::as_const(norm)), 1e-5, as_rows<D>(y));
      else
        cpu::project_add_norm_project(ctx, from, first, old, point, next(), 1e-5, as_rows<N>(y));
    }
  }
  /// Each half of a row of g times its norm's factor.
  void scale() {
    if constexpr (U != 0)
      for (std::size_t i = 0; i < 2 * count; ++i) {
        double const* const parts = squares.data() + i * U;
        double const sum = std::accumulate(parts, parts + U, 0.0);
        for (std::size_t k = 0; k < K / 2; ++k) g[i * (K / 2) + k] /= std::sqrt(sum * 2 / K + 1e-5);
      }
  }
  /// The residual is written where `to` says, on `blocks` multiprocessors.
  void run_device(float* to, int blocks, bool early = false) const {
    cuda::detail::project_add_norm::launch_hopper<traits>(
        {g_.data(), U == 0 ? nullptr : squares_.data(), out_.data(), out_bias_.data(), before_.data(), to, rstd_.data(),
         norm_.data(), in_.data(), in_bias_.data(), y_.data(), int(count), 1e-5f},
        blocks, nullptr, early);
  }
  void compare() const {
    CAPTURE(count);
    double const error = relative_error(y_.read(), y);
    MESSAGE("R ", count, " D ", D, " K ", K, " N ", N, " U ", U, ": ", error);
    CHECK(error < tolerance);
    CHECK(relative_error(rstd_.read(), rstd) < 4e-6);
    CHECK(y_.margins_untouched());
    CHECK(before_.margins_untouched());
    CHECK(after_.margins_untouched());
  }
};

bool on_hopper() {
  cuda::device_properties const device{cuda::current_device()};
  bool const fits = cuda::detail::project_add_norm::hopper_runs<__nv_bfloat16, 192, 768, 1032, 8>(device);
  if (!fits) MESSAGE("no Hopper, or no code for one: skipped");
  return fits;
}

using bf16 = __nv_bfloat16;

}  // namespace

TEST_CASE_TEMPLATE("cuda project_add_norm, hopper: equals the CPU's in double at any number of rows", F,
                   hopper_case<bf16, 192, 768, 1032, 8>, hopper_case<__half, 192, 768, 864, 8>,
                   hopper_case<bf16, 192, 288, 1032, 0>, hopper_case<__half, 192, 40, 8, 0>,
                   hopper_case<bf16, 384, 1536, 1800, 16>, hopper_case<bf16, 384, 576, 1800, 0>,
                   hopper_case<bf16, 192, 768, 0, 8>, hopper_case<__half, 384, 576, 0, 0>,
                   hopper_case<bf16, 96, 384, 648, 8>, hopper_case<__half, 96, 384, 864, 8>,
                   hopper_case<bf16, 96, 288, 648, 0>, hopper_case<__half, 96, 40, 8, 0>,
                   hopper_case<bf16, 96, 384, 0, 8>, hopper_case<__half, 96, 288, 0, 0>) {
  if (!on_hopper()) return;
  for (std::size_t const count : {1u, 63u, 192u, 197u, 1001u}) {
    F f{count};
    f.run_host();
    f.run_device(f.after_.data(), count == 1001 ? 3 : 132);  // three blocks: each has tiles after its first
    f.compare();
    CHECK(relative_error(f.after_.read(), f.after) < 4e-6);
    f.run_device(f.before_.data(), 132, true);  // in place
    f.compare();
    CHECK(f.before_.read() == f.after_.read());
  }
}

TEST_CASE_TEMPLATE("cuda project_add_norm, hopper: without an output projection the residual is only read", F,
                   hopper_case<bf16, 192, 0, 1032, 0>, hopper_case<__half, 384, 0, 1728, 0>,
                   hopper_case<bf16, 96, 0, 648, 0>) {
  if (!on_hopper()) return;
  for (std::size_t const count : {1u, 130u, 1001u}) {
    F f{count};
    f.run_host();
    f.run_device(nullptr, 2);
    f.compare();
    CHECK(f.before_.read() == f.before);
  }
}
