/// @file
/// Matrix products on row-major memory, through Eigen.
#pragma once

#include <dm2/core/eigen.hpp>
#include <dm2/cpu/context.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// A row-major matrix somewhere in memory: rows x cols, `stride` elements from row to row.
template <class T>
struct matrix {
  T* data;                ///< element (0, 0)
  std::ptrdiff_t rows;    ///< rows
  std::ptrdiff_t cols;    ///< columns
  std::ptrdiff_t stride;  ///< elements from row to row; below cols, rows overlap

  /// r x c from `first` on, `pitch` elements from row to row.
  matrix(T* first, std::ptrdiff_t r, std::ptrdiff_t c, std::ptrdiff_t pitch)
      : data{first}, rows{r}, cols{c}, stride{pitch} {}
  /// The same without gaps between rows.
  matrix(T* first, std::ptrdiff_t r, std::ptrdiff_t c) : matrix{first, r, c, c} {}
  /// A matrix of T converts to a matrix of T const.
  template <class U>
    requires std::is_convertible_v<U (*)[], T (*)[]> matrix(matrix<U> m) : matrix{m.data, m.rows, m.cols, m.stride} {}

    /// Rows [first, last).
    [[nodiscard]] matrix band(std::ptrdiff_t first, std::ptrdiff_t last) const {
      return {data + first * stride, last - first, cols, stride};
    }
    /// Columns [first, last).
    [[nodiscard]] matrix columns(std::ptrdiff_t first, std::ptrdiff_t last) const {
      return {data + first, rows, last - first, stride};
    }
};

/// How a factor is read: as it lies, or transposed.
enum class op : bool { plain, transposed };

namespace detail {
template <class T>
using eigen_matrix = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using eigen_map =
    Eigen::Map<std::conditional_t<std::is_const_v<T>, eigen_matrix<T> const, eigen_matrix<T>>, 0, Eigen::OuterStride<>>;

template <class T>
eigen_map<T> map(matrix<T> m) {
  return {m.data, m.rows, m.cols, Eigen::OuterStride<>{m.stride}};
}
template <class T>
using eigen_array = Eigen::Array<std::remove_const_t<T>, Eigen::Dynamic, 1>;
}  // namespace detail

/// n consecutive numbers as an Eigen array, whose exp and arithmetic are vectorised.
template <class T>
auto array(T* first, std::ptrdiff_t n) {
  using plain = detail::eigen_array<T>;
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, plain const, plain>>{first, n};
}

/// c = op(a) op(b), or c += op(a) op(b), on the calling thread. c overlaps neither factor.
template <op A, op B, bool Accumulate = false, std::floating_point T>
void gemm(matrix<T const> a, matrix<T const> b, matrix<T> c) {
  auto const left = detail::map(a);
  auto const right = detail::map(b);
  auto out = detail::map(c);
  auto const product = [&](auto const& l, auto const& r) {
    if constexpr (Accumulate)
      out.noalias() += l * r;
    else
      out.noalias() = l * r;
  };
  if constexpr (A == op::plain && B == op::plain)
    product(left, right);
  else if constexpr (A == op::plain)
    product(left, right.transpose());
  else if constexpr (B == op::plain)
    product(left.transpose(), right);
  else
    product(left.transpose(), right.transpose());
}

/// The same with c's rows spread over the context's threads; the split, and so the last bits, depend on their number.
template <op A, op B, bool Accumulate = false, std::floating_point T>
void parallel_gemm(context<T>& ctx, matrix<T const> a, matrix<T const> b, matrix<T> c) {
  // A part below 32 rows spends more time on packing b than on the product.
  ctx.for_range(c.rows, 32, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    matrix<T const> const part = A == op::plain ? a.band(first, last) : a.columns(first, last);
    gemm<A, B, Accumulate>(part, b, c.band(first, last));
  });
}

}  // namespace dm2::cpu
