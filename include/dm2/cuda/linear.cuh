/// @file
/// Linear layers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>

#include <type_traits>

namespace dm2::cuda {

/// y = x w^T + bias
///
/// Shapes   x [R, K]; w [N, K]; bias [N], or a view of nothing for none; y [R, N], of w's type or float.
/// Writes   y (=). y overlaps neither input.
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
