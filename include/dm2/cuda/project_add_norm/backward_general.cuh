/// @file
/// Project-add-norm's backward, general form: any shape and precision.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/linear.cuh>
#include <dm2/cuda/rms_norm.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// Scratch between the two projections: rows as products read them.
template <class T, int D>
struct gradient_rows {
  rows<T, D, space::device> normed;   ///< first the gradient of the normed rows, then these
  rows<T, D, space::device> rounded;  ///< the residual's gradient; of nothing where that is an operand itself

  gradient_rows(arena& a, std::size_t count, bool norm, bool project) {
    if (norm) normed = {a.template take<T>(count * D), count};
    if (is_half<T> && project) rounded = {a.template take<T>(count * D), count};
  }
};

/// Bytes that these operations take for sums in parts, of which one runs at a time; N is the width of the input
/// projection, 0 where there is none.
template <int D, int N>
std::size_t sums_scratch(std::size_t count) {
  return std::max({rms_norm_backward_scratch<D>(count), column_sums_scratch(count, D),
                   N == 0 ? std::size_t{0} : column_sums_scratch(count, N)});
}

/// Through the input projection and the norm: dresidual += ..., dnorm += ..., s is set.
template <precision P, class T, int N, int D>
void norm_project_data_gradient(context<P>& ctx, gradient_rows<T, D> const& s,
                                norm_point<float, D, space::device> point,
                                norm_projection<float const, N, D, space::device, T const> const& p,
                                rows<T const, N, space::device> dy, rows<float, D, space::device> dresidual,
                                block<float, space::device, D> dnorm) {
  gemm<op::plain, op::plain>(ctx, as_matrix(dy), as_matrix(p.in.weight), as_matrix(s.normed));
  if (!ctx.reserve(0)) return;
  norm_gradient_call<T, T> const call{.x = point.residual.data,
                                      .w = p.norm.data,
                                      .rstd = point.rstd,
                                      .dy = s.normed.data,
                                      .dx = dresidual.data,
                                      .normed = s.normed.data,
                                      .rounded = s.rounded.data,
                                      .count = dy.count};
  norm_gradient<D, true>(ctx.stream(), ctx.shared(), call, dnorm.data);
}

/// The input projection's gradients, from its normed rows.
template <precision P, class T, int N, int D>
void norm_project_weight_gradients(context<P>& ctx, gradient_rows<T, D> const& s, rows<T const, N, space::device> dy,
                                   linear_parameters<float, N, D, space::device> const& grad) {
  rows<T const, D, space::device> const normed{s.normed};
  gemm<op::transposed, op::plain>(ctx, as_matrix(dy), as_matrix(normed), as_matrix(grad.weight), {grad.weight.data});
  if (grad.bias.data != nullptr && ctx.reserve(0))
    add_column_sums("norm_project_backward: bias", ctx.stream(), ctx.shared(), dy.data, dy.count, N, grad.bias.data);
}

/// The residual's gradient as products read it.
template <class T, int D>
matrix<T const> residual_operand(gradient_rows<T, D> const& s, rows<float, D, space::device> dresidual) {
  if constexpr (is_half<T>)
    return {s.rounded.data, std::int64_t(s.rounded.count), D};
  else
    return {dresidual.data, std::int64_t(dresidual.count), D};
}

/// The output projection's gradients.
template <precision P, class T, int D, int K>
void project_add_weight_gradients(context<P>& ctx, gradient_rows<T, D> const& s, rows<T const, K, space::device> g,
                                  rows<float, D, space::device> dresidual,
                                  linear_parameters<float, D, K, space::device> const& grad) {
  gemm<op::transposed, op::plain>(ctx, residual_operand(s, dresidual), as_matrix(g), as_matrix(grad.weight),
                                  {grad.weight.data});
  if (grad.bias.data != nullptr && ctx.reserve(0))
    add_column_sums("project_add_backward: bias", ctx.stream(), ctx.shared(), dresidual.data, dresidual.count, D,
                    grad.bias.data);
}

}  // namespace dm2::cuda::detail::project_add_norm
