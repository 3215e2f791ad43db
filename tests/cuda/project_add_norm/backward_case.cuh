/// @file
/// Project-add-norm's backward on the device and on the host: a forward pass on the device, and backward of what it
/// left.
#pragma once

#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

namespace dm2::test {

inline constexpr double eps = 1e-3;

/// A projection's parameters, as an operation takes them here and there, and its gradients, which start as numbers.
template <class T, int N, int K>
struct trained_linear {
  std::vector<double> w, b, dw, db;
  device_array<T> w_in;
  device_array<float> b_in, dw_out, db_out;

  explicit trained_linear(random_source& random)
      : w{rounded<T>(random.normal(std::size_t{N} * K, 0.1))},
        b{rounded<float>(random.normal(N))},
        dw{rounded<float>(random.normal(std::size_t{N} * K))},
        db{rounded<float>(random.normal(N))},
        w_in{w},
        b_in{b},
        dw_out{dw},
        db_out{db} {}

  [[nodiscard]] linear_parameters<float const, N, K, space::device, T const> here() const {
    return {w_in.template as_block<N, K>(), b_in.template as_block<N>()};
  }
  [[nodiscard]] linear_parameters<float, N, K, space::device> gradient_here() const {
    return {dw_out.template as_block<N, K>(), db_out.template as_block<N>()};
  }
  [[nodiscard]] linear_parameters<double const, N, K> there() const { return {as_block<N, K>(w), as_block<N>(b)}; }
  [[nodiscard]] linear_parameters<double, N, K> gradient_there() { return {as_block<N, K>(dw), as_block<N>(db)}; }
  void check(double tolerance) const {
    CHECK(relative_error(dw_out.read(), dw) < tolerance);
    CHECK(relative_error(db_out.read(), db) < tolerance);
    CHECK((dw_out.margins_untouched() && db_out.margins_untouched()));
  }
};

/// A forward pass on the device, and backward of what it left.
template <cuda::precision Precision, int Width, int Inner, int Wide>
struct project_add_norm_backward_case {
  static constexpr cuda::precision P = Precision;
  static constexpr int D = Width, K = Inner, N = Wide;
  using T = cuda::element<P>;
  std::size_t count;
  cuda::context<P> ctx;
  cpu::context<double> host{1};
  random_source random{107};
  std::vector<double> g, before, norm, dy, dend, dresidual, dnorm, residual, rstd, dg;
  trained_linear<T, D, K> out{random};
  trained_linear<T, N, D> in{random};
  device_array<T> g_in, dy_in, dend_in, y, end, dg_out;
  device_array<float> before_in, norm_in, after, rstd_out, dresidual_out, dnorm_out;

  explicit project_add_norm_backward_case(std::size_t rows_in)
      : count{rows_in},
        g{rounded<T>(random.normal(count * K))},
        before{rounded<float>(random.normal(count * D))},
        norm{rounded<float>(random.normal(D))},
        dy{rounded<T>(random.normal(count * N))},
        dend{rounded<T>(random.normal(count * D))},
        dresidual{rounded<float>(random.normal(count * D))},
        dnorm{rounded<float>(random.normal(D))},
        dg{poisoned(count * K)},
        g_in{g},
        dy_in{dy},
        dend_in{dend},
        y{count * N},
        end{count * D},
        dg_out{count * K},
        before_in{before},
        norm_in{norm},
        after{count * D},
        rstd_out{count},
        dresidual_out{dresidual},
        dnorm_out{dnorm} {}

  [[nodiscard]] norm_point<float, D, space::device> point() const {
    return {after.template as_rows<D>(), rstd_out.data()};
  }
  [[nodiscard]] norm_point<double, D> point_there() {
    residual = after.read(), rstd = rstd_out.read();
    return {as_rows<D>(residual), rstd.data()};
  }
  [[nodiscard]] norm_projection<float const, N, D, space::device, T const> projection() const {
    return {norm_in.template as_block<D>(), in.here()};
  }
  [[nodiscard]] norm_projection<double const, N, D> projection_there() const { return {as_block<D>(norm), in.there()}; }
  [[nodiscard]] norm_projection<float, N, D, space::device> gradient() const {
    return {dnorm_out.template as_block<D>(), in.gradient_here()};
  }
  [[nodiscard]] norm_projection<double, N, D> gradient_there() { return {as_block<D>(dnorm), in.gradient_there()}; }

  [[nodiscard]] core_projection<float const, D, K, space::device, T const, T const> from() const {
    return {g_in.template as_rows<K>(), out.here()};
  }
  [[nodiscard]] core_projection<double const, D, K> from_there() const { return {as_rows<K>(g), out.there()}; }
  [[nodiscard]] core_projection<float, D, K, space::device, T> from_gradient() const {
    return {dg_out.template as_rows<K>(), out.gradient_here()};
  }
  [[nodiscard]] core_projection<double, D, K> from_gradient_there() { return {as_rows<K>(dg), out.gradient_there()}; }

  void forward() {
    cuda::project_add_norm_project(ctx, g_in.template as_rows<K>(), out.here(), before_in.template as_rows<D>(),
                                   point(), projection(), eps, y.template as_rows<N>());
  }
  void forward_end() {
    cuda::project_add_norm(ctx, g_in.template as_rows<K>(), out.here(), before_in.template as_rows<D>(), point(),
                           norm_in.template as_block<D>(), eps, end.template as_rows<D>());
  }
  void backward(cuda::project_add_norm_backward_form choice = cuda::project_add_norm_backward_form::general) {
    cuda::project_add_norm_project_backward(ctx, from(), point(), projection(), dy_in.template as_rows<N>(),
                                            dresidual_out.template as_rows<D>(), from_gradient(), gradient(), choice);
  }
  void backward_end() {
    cuda::project_add_norm_backward(ctx, from(), point(), norm_in.template as_block<D>(), dend_in.template as_rows<D>(),
                                    dresidual_out.template as_rows<D>(), from_gradient(),
                                    dnorm_out.template as_block<D>());
  }
  void backward_start() {
    cuda::norm_project_backward(ctx, point(), projection(), dy_in.template as_rows<N>(),
                                dresidual_out.template as_rows<D>(), gradient());
  }
  void check(double tolerance) const {
    CHECK(relative_error(dresidual_out.read(), dresidual) < tolerance);
    CHECK(relative_error(dnorm_out.read(), dnorm) < tolerance);
    CHECK((dresidual_out.margins_untouched() && dnorm_out.margins_untouched()));
  }
};

/// Of operands that are rounded between the products.
template <cuda::precision P>
inline constexpr double tolerance = P == cuda::precision::fp32 ? 5e-6 : product_tolerance<P>;

template <class F>
void check_backward(std::size_t count,
                    cuda::project_add_norm_backward_form choice = cuda::project_add_norm_backward_form::general) {
  CAPTURE(count);
  F f{count};
  f.forward();
  CHECK(f.before_in.read() == f.before);
  f.backward(choice);
  cpu::project_add_norm_project_backward(f.host, f.from_there(), f.point_there(), f.projection_there(),
                                         as_rows<F::N>(std::as_const(f.dy)), as_rows<F::D>(f.dresidual),
                                         f.from_gradient_there(), f.gradient_there());
  f.check(tolerance<F::P>);
  f.in.check(tolerance<F::P>);
  f.out.check(tolerance<F::P>);
  CHECK(relative_error(f.dg_out.read(), f.dg) < tolerance<F::P>);
  CHECK(f.dg_out.margins_untouched());
}

template <cuda::precision P>
using tiny_case = project_add_norm_backward_case<P, 192, 768, 1032>;

}  // namespace dm2::test
