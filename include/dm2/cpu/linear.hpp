/// @file
/// Linear layers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

namespace detail {
template <class T, int C>
matrix<T> as_matrix(rows<T, C> x) {
  return {x.data, std::ptrdiff_t(x.count), C};
}
template <class T, int R, int C>
matrix<T> as_matrix(block<T, space::host, R, C> w) {
  return {w.data, R, C};
}

/// y[r, :] += bias
template <class T, int N>
void add_bias(context<T>& ctx, rows<T, N> y, T const* bias) {
  ctx.for_range(std::ptrdiff_t(y.count), 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) array(y.data + r * N, N) += array(bias, N);
  });
}

/// db += the sum of dy's rows, in their order.
template <class T, int N>
void add_column_sums(context<T>& ctx, rows<T const, N> dy, T* db) {
  ctx.for_range(N, 64, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = 0; r < std::ptrdiff_t(dy.count); ++r)
      array(db + first, last - first) += array(dy.data + r * N + first, last - first);
  });
}
}  // namespace detail

/// The parameters that a product reads in the place of p: p itself, since every number has one type here.
template <class T, class Parameters>
Parameters operand(context<T>&, Parameters const& p) {
  return p;
}

/// y = x w^T + bias
///
/// Shapes   x [R, K]; w [N, K]; bias [N], or a view of nothing for none; y [R, N].
/// Writes   y (=). y overlaps neither input.
/// Throws   shape_error if the row counts differ.
template <class T, int K, int N>
void linear(context<T>& ctx, std::type_identity_t<rows<T const, K>> x, block<T const, space::host, N, K> w,
            std::type_identity_t<block<T const, space::host, N>> bias, rows<T, N> y) {
  require_extent("linear.y rows", y.count, x.count);
  parallel_gemm<op::plain, op::transposed>(ctx, detail::as_matrix(x), detail::as_matrix(w), detail::as_matrix(y));
  if (bias.data != nullptr) detail::add_bias(ctx, y, bias.data);
}

/// dx = dy w,  dw += dy^T x,  db += sum_r dy
///
/// Shapes   as linear; db [N], or a view of nothing where there is no bias.
/// Writes   dx (=), left alone if it is a view of nothing; dw, db (+=).
/// Throws   shape_error if the row counts differ.
template <class T, int K, int N>
void linear_backward(context<T>& ctx, std::type_identity_t<rows<T const, K>> x, block<T const, space::host, N, K> w,
                     std::type_identity_t<rows<T const, N>> dy, std::type_identity_t<rows<T, K>> dx,
                     block<T, space::host, N, K> dw, std::type_identity_t<block<T, space::host, N>> db) {
  require_extent("linear_backward.dy rows", dy.count, x.count);
  if (dx.data != nullptr) {
    require_extent("linear_backward.dx rows", dx.count, x.count);
    parallel_gemm<op::plain, op::plain>(ctx, detail::as_matrix(dy), detail::as_matrix(w), detail::as_matrix(dx));
  }
  parallel_gemm<op::transposed, op::plain, true>(ctx, detail::as_matrix(dy), detail::as_matrix(x),
                                                 detail::as_matrix(dw));
  if (db.data != nullptr) detail::add_column_sums(ctx, dy, db.data);
}

}  // namespace dm2::cpu
