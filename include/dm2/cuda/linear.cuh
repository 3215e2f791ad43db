/// @file
/// Linear layers, and their gradient.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// The parameters that a product reads in the place of p: the context's copies of the matrices.
template <precision P, int N, int K>
linear_parameters<float const, N, K, space::device, element<P> const> operand(
    context<P>& ctx, linear_parameters<float const, N, K, space::device> const& p) {
  return {block<element<P> const, space::device, N, K>{ctx.copy_of(p.weight.data)}, p.bias};
}
/// The same for a norm and its projection.
template <precision P, int N, int K>
norm_projection<float const, N, K, space::device, element<P> const> operand(
    context<P>& ctx, norm_projection<float const, N, K, space::device> const& p) {
  return {p.norm, operand(ctx, p.in)};
}
/// The same for the heads.
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

namespace detail {

/// Bytes of scratch that linear_gradients takes for `rows` rows of dy, of type G.
template <class T, class G>
std::size_t linear_backward_scratch(std::size_t rows, int width) {
  std::size_t const operand = std::is_same_v<T, G> ? 0 : rows * std::size_t(width) * sizeof(T) + arena::alignment;
  return operand + column_sums_scratch(rows, width);
}

/// dx = dy w, dw += dy^T x, db += sum_r dy, with x and dx anywhere in memory; dy has no gaps. dx may be x, null, or
/// of no rows, and db null. The caller has reserved linear_backward_scratch, and there is a row.
template <precision P, class T, class G, class U>
void linear_gradients(context<P>& ctx, matrix<T const> x, matrix<T const> w, matrix<G const> dy, matrix<U> dx,
                      matrix<float> dw, float* db) {
  bool const run = ctx.reserve(0);
  arena_scope const scope{ctx.shared()};
  matrix<T const> operand{nullptr, dy.rows, dy.cols};
  std::size_t const n = std::size_t(dy.rows) * std::size_t(dy.cols);
  if constexpr (std::is_same_v<T, G>) {
    operand.data = dy.data;
  } else {
    T* const memory = ctx.shared().template take<T>(n);
    operand.data = memory;
    round(ctx, dy.data, n, memory);
  }
  gemm<op::transposed, op::plain>(ctx, operand, x, dw, {dw.data});
  if (dx.rows != 0 && (dx.data != nullptr || !run)) gemm<op::plain, op::plain>(ctx, operand, w, dx);
  if (db != nullptr && run)
    add_column_sums("linear_backward: bias", ctx.stream(), ctx.shared(), dy.data, std::size_t(dy.rows), int(dy.cols),
                    db);
}

}  // namespace detail

/// dx = dy w,  dw += dy^T x,  db += sum_r dy
///
/// Shapes   as linear; db [N], or a view of nothing where there is no bias. dy is of the operands' type T, or float,
///          and then it is rounded for the products; dx is of type T, or float.
/// Writes   dx (=), left alone if it is a view of nothing; dw, db (+=). Nothing overlaps.
/// Sums     float, in a fixed order: two runs give the same bits.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, class T, class G, class U, int K, int N>
void linear_backward(context<P>& ctx, std::type_identity_t<rows<T const, K, space::device>> x,
                     block<T const, space::device, N, K> w, rows<G, N, space::device> dy, rows<U, K, space::device> dx,
                     block<float, space::device, N, K> dw, std::type_identity_t<block<float, space::device, N>> db) {
  using gradient = std::remove_const_t<G>;
  static_assert(std::is_same_v<gradient, T> || std::is_same_v<gradient, float>,
                "dm2::cuda::linear_backward: dy must be of the operands' type, or float");
  require_extent("linear_backward.dy rows", dy.count, x.count);
  if (dx.data != nullptr) require_extent("linear_backward.dx rows", dx.count, x.count);
  static_cast<void>(
      ctx.reserve(detail::linear_backward_scratch<T, gradient>(dy.count, N)));  // the products plan theirs
  if (dy.count == 0) return;
  rows<gradient const, N, space::device> const dy_in{dy};
  detail::linear_gradients(ctx, detail::as_matrix(x), detail::as_matrix(w), detail::as_matrix(dy_in),
                           matrix<U>{dx.data, std::int64_t(dy.count), K}, detail::as_matrix(dw), db.data);
}

}  // namespace dm2::cuda
