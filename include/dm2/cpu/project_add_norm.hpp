/// @file
/// Project-add-norm: output projection, residual addition, norm, next input projection.
///
/// On a GPU this is one kernel, since a row of the residual stream meets nothing but weights in it; here it is
/// composed.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/linear.hpp>
#include <dm2/cpu/memory.hpp>
#include <dm2/cpu/rms_norm.hpp>

#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// y = RMSNorm(point.residual) in^T + bias; point.rstd is set.
///
/// Shapes   y [R, N]; p as its type says.
/// Writes   y, point.rstd (=).
/// Throws   shape_error if the row counts differ.
template <class T, int N, int D>
void norm_project(context<T>& ctx, norm_point<T, D> point, norm_projection<T const, N, D> const& p, double eps,
                  std::type_identity_t<rows<T, N>> y) {
  require_extent("norm_project.y rows", y.count, point.residual.count);
  if (!ctx.reserve(point.residual.size() * sizeof(T) + arena::alignment, 0)) return;
  arena_scope const scope{ctx.shared()};
  rows<T, D> const normed{ctx.shared().template take<T>(point.residual.size()), point.residual.count};
  rms_norm(ctx, point.residual, p.norm, eps, normed, point.rstd);
  linear(ctx, normed, p.in.weight, p.in.bias, y);
}

/// The gradient of norm_project: dnormed = dy in, then through the norm.
///
/// Shapes   as norm_project; dresidual [R, D].
/// Writes   dresidual (+=), grad (+=).
/// Throws   shape_error if the row counts differ.
template <class T, int N, int D>
void norm_project_backward(context<T>& ctx, norm_point<T, D> point, norm_projection<T const, N, D> const& p,
                           std::type_identity_t<rows<T const, N>> dy, std::type_identity_t<rows<T, D>> dresidual,
                           norm_projection<T, N, D> const& grad) {
  std::size_t const count = point.residual.count, size = point.residual.size();
  if (!ctx.reserve(2 * (size * sizeof(T) + arena::alignment) + rms_norm_backward_scratch<T, D>(), 0)) return;
  arena_scope const scope{ctx.shared()};
  rows<T, D> const normed{ctx.shared().template take<T>(size), count};
  rows<T, D> const dnormed{ctx.shared().template take<T>(size), count};
  ctx.for_range(std::ptrdiff_t(count), 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r)
      array(normed.data + r * D, D) = array(point.residual.data + r * D, D) * point.rstd[r] * array(p.norm.data, D);
  });
  linear_backward(ctx, normed, p.in.weight, dy, dnormed, grad.in.weight, grad.in.bias);
  rms_norm_backward(ctx, point.residual, p.norm, point.rstd, dnormed, dresidual, grad.norm);
}

/// after = before + g out^T + bias.
///
/// Shapes   g [R, K]; before, after [R, D].
/// Writes   after (=), which may be before.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int D, int K>
void project_add(context<T>& ctx, std::type_identity_t<rows<T const, K>> g, linear_parameters<T const, D, K> const& out,
                 std::type_identity_t<rows<T const, D>> before, std::type_identity_t<rows<T, D>> after) {
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", after.count, g.count);
  if (after.data != before.data)
    ctx.for_range(std::ptrdiff_t(after.size()), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
      array(after.data + first, last - first) = array(before.data + first, last - first);
    });
  parallel_gemm<op::plain, op::transposed, true>(ctx, detail::as_matrix(g), detail::as_matrix(out.weight),
                                                 detail::as_matrix(after));
  if (out.bias.data != nullptr) detail::add_bias(ctx, after, out.bias.data);
}

/// point.residual = before + g out^T + bias, then y = RMSNorm(point.residual) in^T + bias.
///
/// Shapes   g [R, K], a core's output; before [R, D]; y [R, N], the next core's input.
/// Writes   point, y (=). point.residual may be `before`.
/// Throws   shape_error if the row counts differ.
template <class T, int D, int K, int N>
void project_add_norm_project(context<T>& ctx, std::type_identity_t<rows<T const, K>> g,
                              linear_parameters<T const, D, K> const& out,
                              std::type_identity_t<rows<T const, D>> before, norm_point<T, D> point,
                              norm_projection<T const, N, D> const& p, double eps, std::type_identity_t<rows<T, N>> y) {
  project_add(ctx, g, out, before, point.residual);
  norm_project(ctx, point, p, eps, y);
}

/// The gradient of project_add_norm_project, of from.core and from.out.
///
/// Shapes   dy [R, N]; dresidual [R, D]: on entry the gradient of point.residual from everything after, on return
///          that of `before`.
/// Writes   dresidual (updated); grad.core (=); grad.out, dp (+=).
/// Throws   shape_error if the row counts differ.
template <class T, int D, int K, int N>
void project_add_norm_project_backward(context<T>& ctx, core_projection<T const, D, K> const& from,
                                       norm_point<T, D> point, norm_projection<T const, N, D> const& p,
                                       std::type_identity_t<rows<T const, N>> dy,
                                       std::type_identity_t<rows<T, D>> dresidual, core_projection<T, D, K> const& grad,
                                       norm_projection<T, N, D> const& dp) {
  norm_project_backward(ctx, point, p, dy, dresidual, dp);
  linear_backward(ctx, from.core, from.out.weight, dresidual, grad.core, grad.out.weight, grad.out.bias);
}

/// The end of the trunk: point.residual = before + g out^T + bias, then y = RMSNorm(point.residual).
///
/// Shapes   g [R, K]; before, y [R, D].
/// Writes   point, y (=). point.residual may be `before`; y may be point.residual where no backward follows.
/// Throws   shape_error if the row counts differ.
template <class T, int D, int K>
void project_add_norm(context<T>& ctx, std::type_identity_t<rows<T const, K>> g,
                      linear_parameters<T const, D, K> const& out, std::type_identity_t<rows<T const, D>> before,
                      norm_point<T, D> point, block<T const, space::host, D> norm, double eps,
                      std::type_identity_t<rows<T, D>> y) {
  project_add(ctx, g, out, before, point.residual);
  rms_norm(ctx, point.residual, norm, eps, y, point.rstd);
}

/// The gradient of project_add_norm, of from.core and from.out.
///
/// Shapes   dy [R, D]; dresidual [R, D].
/// Writes   dresidual (=), the gradient of `before`; grad.core (=); grad.out, dnorm (+=).
/// Throws   shape_error if the row counts differ.
template <class T, int D, int K>
void project_add_norm_backward(context<T>& ctx, core_projection<T const, D, K> const& from, norm_point<T, D> point,
                               block<T const, space::host, D> norm, std::type_identity_t<rows<T const, D>> dy,
                               std::type_identity_t<rows<T, D>> dresidual, core_projection<T, D, K> const& grad,
                               block<T, space::host, D> dnorm) {
  clear(ctx, dresidual.data, dresidual.size());
  rms_norm_backward(ctx, point.residual, norm, point.rstd, dy, dresidual, dnorm);
  linear_backward(ctx, from.core, from.out.weight, dresidual, grad.core, grad.out.weight, grad.out.bias);
}

}  // namespace dm2::cpu
