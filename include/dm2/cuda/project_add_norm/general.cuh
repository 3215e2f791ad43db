/// @file
/// Project-add-norm, general form: any shape and precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/linear.cuh>
#include <dm2/cuda/rms_norm.cuh>

#include <type_traits>

namespace dm2::cuda::detail::project_add_norm {

/// y = RMSNorm(point.residual) in^T + bias; point.rstd is set, unless it is null.
///
/// Shapes   y [R, N]; p as its type says.
/// Writes   y, point.rstd (=).
/// Throws   shape_error if the row counts differ.
template <precision P, int N, int D>
void norm_project_general(context<P>& ctx, norm_point<float, D, space::device> point,
                          norm_projection<float const, N, D, space::device, element<P> const> const& p, double eps,
                          std::type_identity_t<rows<element<P>, N, space::device>> y) {
  using T = element<P>;
  require_extent("norm_project.y rows", y.count, point.residual.count);
  static_cast<void>(ctx.reserve(point.residual.size() * sizeof(T) + arena::alignment));  // the parts plan theirs
  arena_scope const scope{ctx.shared()};
  rows<T, D, space::device> const normed{ctx.shared().template take<T>(point.residual.size()), point.residual.count};
  rms_norm(ctx, point.residual, p.norm, eps, normed, point.rstd);
  linear(ctx, normed, p.in.weight, p.in.bias, y);
}

/// after = before + g out^T + bias, the addition in float.
///
/// Shapes   g [R, K]; before, after [R, D].
/// Writes   after (=), which may be before.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int D, int K>
void project_add_general(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                         linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                         std::type_identity_t<rows<float const, D, space::device>> before,
                         std::type_identity_t<rows<float, D, space::device>> after) {
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", after.count, g.count);
  gemm<op::plain, op::transposed>(ctx, as_matrix(g), as_matrix(out.weight), as_matrix(after),
                                  {before.data, out.bias.data});
}

/// point.residual = before + g out^T + bias, then y = RMSNorm(point.residual) in^T + bias.
///
/// Shapes   g [R, K], what a core wrote; before [R, D]; y [R, N], what the next core reads.
/// Writes   point, y (=). point.residual may be `before`; point.rstd may be null.
/// Throws   shape_error if the row counts differ.
template <precision P, int D, int K, int N>
void project_add_norm_project_general(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                                      linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                                      std::type_identity_t<rows<float const, D, space::device>> before,
                                      norm_point<float, D, space::device> point,
                                      norm_projection<float const, N, D, space::device, element<P> const> const& p,
                                      double eps, std::type_identity_t<rows<element<P>, N, space::device>> y) {
  project_add_general(ctx, g, out, before, point.residual);
  norm_project_general(ctx, point, p, eps, y);
}

/// The end of the trunk: point.residual = before + g out^T + bias, then y = RMSNorm(point.residual).
///
/// Shapes   g [R, K]; before, y [R, D].
/// Writes   point, y (=). point.residual may be `before`; y may be point.residual where it is float and no backward
///          follows.
/// Throws   shape_error if the row counts differ.
template <precision P, int D, int K>
void project_add_norm_general(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                              linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                              std::type_identity_t<rows<float const, D, space::device>> before,
                              norm_point<float, D, space::device> point, block<float const, space::device, D> norm,
                              double eps, std::type_identity_t<rows<element<P>, D, space::device>> y) {
  project_add_general(ctx, g, out, before, point.residual);
  rms_norm(ctx, point.residual, norm, eps, y, point.rstd);
}

}  // namespace dm2::cuda::detail::project_add_norm
