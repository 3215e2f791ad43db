/// @file
/// Linear layers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>

#include <type_traits>

namespace dm2::cuda {

/// The parameters that a product reads in the place of p: the context's copies of the matrices.
template <precision P, int N, int K>
linear_parameters<float const, N, K, space::device, element<P> const> operand(
    context<P>& ctx, linear_parameters<float const, N, K, space::device> const& p) {
  return {block<element<P> const, space::device, N, K>{ctx.copy_of(p.weight.data)}, p.bias};
}
/// @copydoc operand
template <precision P, int N, int K>
norm_projection<float const, N, K, space::device, element<P> const> operand(
    context<P>& ctx, norm_projection<float const, N, K, space::device> const& p) {
  return {p.norm, operand(ctx, p.in)};
}
/// @copydoc operand
template <precision P, int K, int D>
head_parameters<float const, K, D, space::device, element<P> const> operand(
    context<P>& ctx, head_parameters<float const, K, D, space::device> const& p) {
  return {operand(ctx, p.cls), operand(ctx, p.aux)};
}

/// y = x w^T + bias
///
/// Shapes   x [R, K]; w [N, K]; bias [N], or a view of nothing for none; y [R, N], of w's type or float.
/// Writes   y (=). y overlaps neither input.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ.
template <precision P, class T, class U, int K, int N>
void linear(context<P>& ctx, std::type_identity_t<rows<T const, K, space::device>> x,
            block<T const, space::device, N, K> w, std::type_identity_t<block<float const, space::device, N>> bias,
            rows<U, N, space::device> y) {
  require_extent("linear.y rows", y.count, x.count);
  gemm<op::plain, op::transposed>(ctx, detail::as_matrix(x), detail::as_matrix(w), detail::as_matrix(y),
                                  {nullptr, bias.data});
}

}  // namespace dm2::cuda
