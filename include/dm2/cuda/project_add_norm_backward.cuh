/// @file
/// The gradients of what lies between two cores of the trunk: output projection, residual addition, norm, next input
/// projection.
///
/// Saved by the forward: the residual stream at each norm, float, with 1 / root mean square, and what each core read
/// and wrote: at Tiny's size, with 16-bit activations, 152,084 + 406,608 + 302,592 bytes an image and block.
/// Recomputed: the normed rows, in the pass that takes the gradient through the norm. That pass also rounds the
/// residual's gradient for the two products that read it.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/linear_backward.cuh>
#include <dm2/cuda/partial_sums.cuh>
#include <dm2/cuda/rms_norm_backward.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// Scratch between the two projections: rows of the operands' type, and what sums in parts need, which is not needed at
/// the same time.
template <class T, int D>
struct between_gradients {
  rows<T, D, space::device> normed;   ///< first the gradient of the normed rows, then these
  rows<T, D, space::device> rounded;  ///< the residual's gradient as products read it; of nothing where it is that

  between_gradients(arena& a, std::size_t count, bool project) : normed{a.template take<T>(count * D), count} {
    if (is_half<T> && project) rounded = {a.template take<T>(count * D), count};
  }
};

/// Bytes of scratch of this file's operations; N the width of the input projection, 0 where there is none.
template <class T, int D, int N>
std::size_t between_backward_scratch(std::size_t count, bool project) {
  std::size_t const sums = std::max({rms_norm_backward_scratch<D>(count), column_sums_scratch(count, D),
                                     N == 0 ? std::size_t{0} : column_sums_scratch(count, N)});
  return planned_bytes<between_gradients<T, D>>(count, project) + sums;
}

/// Through the input projection and the norm: dresidual += ..., s.normed and s.rounded are set.
template <precision P, class T, int N, int D>
void norm_project_gradients(context<P>& ctx, between_gradients<T, D> const& s,
                            norm_point<float, D, space::device> point,
                            norm_projection<float const, N, D, space::device, T const> const& p,
                            rows<T const, N, space::device> dy, rows<float, D, space::device> dresidual,
                            norm_projection<float, N, D, space::device> const& grad) {
  gemm<op::plain, op::plain>(ctx, as_matrix(dy), as_matrix(p.in.weight), as_matrix(s.normed));
  bool const run = ctx.reserve(0);
  if (run) {
    norm_gradient_call<T, T> const call{point.residual.data, p.norm.data,    point.rstd, s.normed.data, dresidual.data,
                                        s.normed.data,       s.rounded.data, nullptr,    dy.count};
    norm_gradient<D, true>(ctx.stream(), ctx.shared(), call, grad.norm.data);
  }
  rows<T const, D, space::device> const normed{s.normed};
  linear_gradients(ctx, as_matrix(normed), as_matrix(p.in.weight), as_matrix(dy), matrix<T>{nullptr, 0, 0},
                   as_matrix(grad.in.weight), grad.in.bias.data);
}

/// Through the output projection: dg = dresidual out, and its parameters' gradients. s.rounded is set where dresidual is
/// no operand itself.
template <precision P, class T, int D, int K>
void project_add_gradients(context<P>& ctx, between_gradients<T, D> const& s, rows<T const, K, space::device> g,
                           linear_parameters<float const, D, K, space::device, T const> const& out,
                           rows<float, D, space::device> dresidual, rows<T, K, space::device> dg,
                           linear_parameters<float, D, K, space::device> const& dout) {
  rows<T const, D, space::device> dy;
  if constexpr (is_half<T>)
    dy = s.rounded;
  else
    dy = dresidual;
  gemm<op::plain, op::plain>(ctx, as_matrix(dy), as_matrix(out.weight), as_matrix(dg));
  gemm<op::transposed, op::plain>(ctx, as_matrix(dy), as_matrix(g), as_matrix(dout.weight), {dout.weight.data});
  if (dout.bias.data != nullptr && ctx.reserve(0))
    add_column_sums("project_add_backward: bias", ctx.stream(), ctx.shared(), dresidual.data, dresidual.count, D,
                    dout.bias.data);
}

}  // namespace detail

/// The gradient of norm_project: dnormed = dy in, then through the norm. dnormed is rounded to the operands' type.
///
/// Shapes   as norm_project; dy [R, N]; dresidual [R, D].
/// Writes   dresidual (+=), grad (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int N, int D>
void norm_project_backward(context<P>& ctx, norm_point<float, D, space::device> point,
                           norm_projection<float const, N, D, space::device, element<P> const> const& p,
                           std::type_identity_t<rows<element<P> const, N, space::device>> dy,
                           std::type_identity_t<rows<float, D, space::device>> dresidual,
                           norm_projection<float, N, D, space::device> const& grad) {
  using T = element<P>;
  require_extent("norm_project_backward.dy rows", dy.count, point.residual.count);
  require_extent("norm_project_backward.dresidual rows", dresidual.count, point.residual.count);
  static_cast<void>(ctx.reserve(detail::between_backward_scratch<T, D, N>(dy.count, false)));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::between_gradients<T, D> const s{ctx.shared(), dy.count, false};
  detail::norm_project_gradients(ctx, s, point, p, dy, dresidual, grad);
}

/// The gradient of project_add_norm_project.
///
/// Shapes   g, dg [R, K]; dy [R, N]; dresidual [R, D]: on entry the gradient of point.residual from everything after,
///          on return that of `before`.
/// Writes   dresidual (updated); dg (=); dout, dp (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int D, int K, int N>
void project_add_norm_project_backward(context<P>& ctx,
                                       std::type_identity_t<rows<element<P> const, K, space::device>> g,
                                       linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                                       norm_point<float, D, space::device> point,
                                       norm_projection<float const, N, D, space::device, element<P> const> const& p,
                                       std::type_identity_t<rows<element<P> const, N, space::device>> dy,
                                       std::type_identity_t<rows<float, D, space::device>> dresidual,
                                       std::type_identity_t<rows<element<P>, K, space::device>> dg,
                                       linear_parameters<float, D, K, space::device> const& dout,
                                       norm_projection<float, N, D, space::device> const& dp) {
  using T = element<P>;
  require_extent("project_add_norm_project_backward.g rows", g.count, point.residual.count);
  require_extent("norm_project_backward.dy rows", dy.count, point.residual.count);
  require_extent("norm_project_backward.dresidual rows", dresidual.count, point.residual.count);
  require_extent("project_add_norm_project_backward.dg rows", dg.count, point.residual.count);
  static_cast<void>(ctx.reserve(detail::between_backward_scratch<T, D, N>(dy.count, true)));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::between_gradients<T, D> const s{ctx.shared(), dy.count, true};
  detail::norm_project_gradients(ctx, s, point, p, dy, dresidual, dp);
  detail::project_add_gradients(ctx, s, g, out, dresidual, dg, dout);
}

/// The gradient of project_add_norm.
///
/// Shapes   g, dg [R, K]; dy, dresidual [R, D].
/// Writes   dresidual (=), the gradient of `before`; dg (=); dout, dnorm (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int D, int K>
void project_add_norm_backward(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                               linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                               norm_point<float, D, space::device> point,
                               std::type_identity_t<block<float const, space::device, D>> norm,
                               std::type_identity_t<rows<element<P> const, D, space::device>> dy,
                               std::type_identity_t<rows<float, D, space::device>> dresidual,
                               std::type_identity_t<rows<element<P>, K, space::device>> dg,
                               linear_parameters<float, D, K, space::device> const& dout,
                               std::type_identity_t<block<float, space::device, D>> dnorm) {
  using T = element<P>;
  require_extent("project_add_norm_backward.g rows", g.count, point.residual.count);
  require_extent("project_add_norm_backward.dy rows", dy.count, point.residual.count);
  require_extent("project_add_norm_backward.dresidual rows", dresidual.count, point.residual.count);
  require_extent("project_add_norm_backward.dg rows", dg.count, point.residual.count);
  bool const run = ctx.reserve(detail::between_backward_scratch<T, D, 0>(dy.count, true));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::between_gradients<T, D> const s{ctx.shared(), dy.count, true};
  if (run) {
    detail::norm_gradient_call<T, T> const call{
        point.residual.data, norm.data, point.rstd, dy.data, dresidual.data, nullptr,
        s.rounded.data,      nullptr,   dy.count};
    detail::norm_gradient<D, false>(ctx.stream(), ctx.shared(), call, dnorm.data);
  }
  detail::project_add_gradients(ctx, s, g, out, dresidual, dg, dout);
}

}  // namespace dm2::cuda
