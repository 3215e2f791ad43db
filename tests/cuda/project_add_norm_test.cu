#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// One project-add-norm, on both sides.
template <cuda::precision Pr, int D, int K, int N>
struct project_add_norm_case {
  static constexpr int D_ = D, K_ = K, N_ = N;
  using T = cuda::element<Pr>;
  static constexpr double tolerance = Pr == cuda::precision::bf16   ? 6e-3
                                      : Pr == cuda::precision::fp16 ? 8e-4
                                      : Pr == cuda::precision::tf32 ? 8e-4
                                                                    : 2e-6;
  std::size_t count;
  cpu::context<double> host{2};
  cuda::context<Pr> ctx;
  random_source random{71};
  std::vector<double> g, before, out, out_bias, norm, in, in_bias, after, rstd, y;
  device_array<T> g_, out_, in_, y_;
  device_array<float> before_, out_bias_, norm_, in_bias_, after_, rstd_;

  explicit project_add_norm_case(std::size_t rows)
      : count{rows},
        g{rounded<T>(random.normal(count * K))},
        before{rounded<float>(random.normal(count * D))},
        out{rounded<T>(random.normal(D * K, 0.05))},
        out_bias{rounded<float>(random.normal(D))},
        norm{rounded<float>(random.normal(D))},
        in{rounded<T>(random.normal(N * D, 0.07))},
        in_bias{rounded<float>(random.normal(N))},
        after{poisoned(count * D)},
        rstd{poisoned(count)},
        y{poisoned(count * N)},
        g_{g},
        out_{out},
        in_{in},
        y_{y.size()},
        before_{before},
        out_bias_{out_bias},
        norm_{norm},
        in_bias_{in_bias},
        after_{after.size()},
        rstd_{rstd.size()} {}

  [[nodiscard]] linear_parameters<float const, D, K, space::device, T const> out_parameters() const {
    return {out_.template as_block<D, K>(), out_bias_.template as_block<D>()};
  }
  [[nodiscard]] norm_projection<float const, N, D, space::device, T const> in_parameters() const {
    return {norm_.template as_block<D>(), {in_.template as_block<N, D>(), in_bias_.template as_block<N>()}};
  }
  [[nodiscard]] linear_parameters<double const, D, K> host_out() const {
    return {as_block<D, K>(out), as_block<D>(out_bias)};
  }
  [[nodiscard]] norm_projection<double const, N, D> host_in() const {
    return {as_block<D>(norm), {as_block<N, D>(in), as_block<N>(in_bias)}};
  }
  void compare(char const* what) {
    CAPTURE(count);
    double const error = relative_error(y_.read(), y);
    MESSAGE(what, " ", int(Pr), " R ", count, " D ", D, " K ", K, " N ", N, ": ", error);
    CHECK(error < tolerance);
    CHECK(relative_error(after_.read(), after) < (Pr == cuda::precision::tf32 ? 1e-3 : 4e-6));
    CHECK(relative_error(rstd_.read(), rstd) < (Pr == cuda::precision::tf32 ? 1e-3 : 4e-6));
    CHECK(y_.margins_untouched());
    CHECK(after_.margins_untouched());
  }
};

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;
constexpr auto fp32 = cuda::precision::fp32;
constexpr auto tf32 = cuda::precision::tf32;

}  // namespace

TEST_CASE_TEMPLATE("cuda project_add_norm_project: equals the CPU's in double at any number of rows", F,
                   project_add_norm_case<bf16, 192, 768, 1032>, project_add_norm_case<fp16, 192, 768, 1032>,
                   project_add_norm_case<bf16, 192, 288, 1032>, project_add_norm_case<bf16, 384, 1536, 1800>,
                   project_add_norm_case<bf16, 96, 384, 420>, project_add_norm_case<bf16, 96, 384, 648>,
                   project_add_norm_case<fp32, 192, 768, 1032>, project_add_norm_case<tf32, 192, 768, 1032>,
                   project_add_norm_case<bf16, 7, 5, 3>, project_add_norm_case<fp32, 7, 5, 3>) {
  for (std::size_t const count : {1u, 15u, 17u, 64u, 65u, 197u, 1576u, 2500u, 6337u, 13001u}) {
    if (count > 3000 && F::tolerance < 1e-4) continue;
    F f{count};
    cpu::project_add_norm_project(f.host, as_rows<F::K_>(std::as_const(f.g)), f.host_out(),
                                  as_rows<F::D_>(std::as_const(f.before)), {as_rows<F::D_>(f.after), f.rstd.data()},
                                  f.host_in(), 1e-5, as_rows<F::N_>(f.y));
    cuda::project_add_norm_project(
        f.ctx, f.g_.template as_rows<F::K_>(), f.out_parameters(), f.before_.template as_rows<F::D_>(),
        {f.after_.template as_rows<F::D_>(), f.rstd_.data()}, f.in_parameters(), 1e-5, f.y_.template as_rows<F::N_>());
    f.compare("project_add_norm_project");
  }
}

TEST_CASE_TEMPLATE("cuda norm_project and project_add_norm: equal the CPU's in double", F,
                   project_add_norm_case<bf16, 192, 768, 192>, project_add_norm_case<bf16, 384, 576, 384>,
                   project_add_norm_case<fp32, 192, 768, 192>, project_add_norm_case<bf16, 5, 7, 5>) {
  for (std::size_t const count : {1u, 17u, 64u, 197u, 2500u}) {
    F f{count};
    cpu::project_add_norm(f.host, as_rows<F::K_>(std::as_const(f.g)), f.host_out(),
                          as_rows<F::D_>(std::as_const(f.before)), {as_rows<F::D_>(f.after), f.rstd.data()},
                          as_block<F::D_>(std::as_const(f.norm)), 1e-5, as_rows<F::D_>(f.y));
    cuda::project_add_norm(f.ctx, f.g_.template as_rows<F::K_>(), f.out_parameters(),
                           f.before_.template as_rows<F::D_>(), {f.after_.template as_rows<F::D_>(), f.rstd_.data()},
                           f.norm_.template as_block<F::D_>(), 1e-5, f.y_.template as_rows<F::D_>());
    f.compare("project_add_norm");
    // The next norm reads what this one left.
    std::vector<double> const residual = f.after_.read();
    f.after = residual;
    cpu::norm_project(f.host, {as_rows<F::D_>(f.after), f.rstd.data()}, f.host_in(), 1e-5, as_rows<F::N_>(f.y));
    cuda::norm_project(f.ctx, {f.after_.template as_rows<F::D_>(), f.rstd_.data()}, f.in_parameters(), 1e-5,
                       f.y_.template as_rows<F::N_>());
    f.compare("norm_project");
  }
}

TEST_CASE("cuda project_add_norm_project: row counts that differ are refused by name") {
  project_add_norm_case<bf16, 192, 768, 1032> f{4}, other{3};
  CHECK(shape_message([&] {
          cuda::project_add_norm_project(f.ctx, f.g_.as_rows<768>(), f.out_parameters(), other.before_.as_rows<192>(),
                                         {f.after_.as_rows<192>(), nullptr}, f.in_parameters(), 1e-5,
                                         f.y_.as_rows<1032>());
        }) == "project_add.before rows: got 3, expected 4");
}
