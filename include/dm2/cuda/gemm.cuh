/// @file
/// Matrix products on row-major memory, through cuBLASLt, and by a kernel of our own where it has none.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/gemm_kernel.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda {

/// A row-major matrix on the device: rows x cols, `stride` elements from row to row.
template <class T>
struct matrix {
  T* data;              ///< element (0, 0)
  std::int64_t rows;    ///< rows
  std::int64_t cols;    ///< columns
  std::int64_t stride;  ///< elements from row to row, at least cols

  /// r x c from `first` on, `pitch` elements from row to row.
  matrix(T* first, std::int64_t r, std::int64_t c, std::int64_t pitch) : data{first}, rows{r}, cols{c}, stride{pitch} {}
  /// The same without gaps between rows.
  matrix(T* first, std::int64_t r, std::int64_t c) : matrix{first, r, c, c} {}
};

/// How a factor is read: as it lies, or transposed.
enum class op : bool { plain, transposed };

/// What is added to a product; null for nothing.
template <class U>
struct product_addends {
  U const* matrix = nullptr;    ///< laid out as the result, which it may be
  float const* bias = nullptr;  ///< one a column
};

namespace detail {

/// The library's name of T.
template <class T>
inline constexpr cudaDataType_t data_type = std::is_same_v<T, __nv_bfloat16> ? CUDA_R_16BF
                                            : std::is_same_v<T, __half>      ? CUDA_R_16F
                                                                             : CUDA_R_32F;

/// The largest power of two up to 16 that divides an address; 16 for null.
inline std::size_t alignment_of(void const* p) {
  std::size_t const bits = reinterpret_cast<std::uintptr_t>(p) | 16;
  return bits & (~bits + 1);
}

template <class T, int C>
matrix<T> as_matrix(rows<T, C, space::device> x) {
  return {x.data, std::int64_t(x.count), C};
}
template <class T, int R, int C>
matrix<T> as_matrix(block<T, space::device, R, C> w) {
  return {w.data, R, C};
}

/// The plan with this bias, or, for a null one, with none.
template <op A, op B, precision P, class T, class U>
product_plan& find_product(context<P>& ctx, matrix<T const> a, matrix<T const> b, matrix<U> c, U const* addend,
                           void const* bias) {
  std::size_t const aligned =
      std::min({alignment_of(a.data), alignment_of(b.data), alignment_of(c.data), alignment_of(addend)});
  product_key const key{data_type<T>,
                        data_type<U>,
                        P == precision::tf32,
                        A == op::transposed,
                        B == op::transposed,
                        c.rows,
                        c.cols,
                        A == op::plain ? a.cols : a.rows,
                        a.stride,
                        b.stride,
                        c.stride,
                        aligned,
                        bias == nullptr ? 0 : alignment_of(bias)};
  return ctx.products().find(ctx.blas(), key, bias, ctx.device().major);
}

/// c = op(a) op(b) + addend + bias as `plan` has it; bias has c's type.
template <precision P, class T, class U>
void run_product(context<P>& ctx, product_plan& plan, matrix<T const> a, matrix<T const> b, matrix<U> c,
                 U const* addend, void const* bias) {
  if (bias != nullptr)
    check(cublasLtMatmulDescSetAttribute(&plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
          "gemm: bias");
  float const one = 1, beta = addend == nullptr ? 0.f : 1.f;
  check(cublasLtMatmul(ctx.blas(), &plan.operation, &one, b.data, &plan.b, a.data, &plan.a, &beta,
                       addend == nullptr ? c.data : addend, &plan.c, c.data, &plan.c, &plan.algorithm,
                       ctx.products().workspace_data(), ctx.products().workspace_size(), ctx.stream()),
        "gemm");
}

}  // namespace detail

/// c = op(a) op(b) + plus.matrix + plus.bias, summed in float; float operands are rounded to TF32 in a context of that
/// precision only.
///
/// Shapes   c [m, n]; op(a) [m, k]; op(b) [k, n]. c has the factors' type, or is float.
/// Writes   c (=), which overlaps neither factor. A bias is rounded to c's type first.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the extents disagree; nothing is written then.
template <op A, op B, precision P, class T, class U>
void gemm(context<P>& ctx, std::type_identity_t<matrix<T const>> a, matrix<T const> b, matrix<U> c,
          std::type_identity_t<product_addends<U>> plus = {}) {
  static_assert(std::is_same_v<T, U> || std::is_same_v<U, float>, "dm2::cuda::gemm: c must be float or of a's type");
  auto const k = std::size_t(A == op::plain ? a.cols : a.rows);
  require_extent("gemm.a rows of the result", std::size_t(A == op::plain ? a.rows : a.cols), std::size_t(c.rows));
  require_extent("gemm.b columns of the result", std::size_t(B == op::plain ? b.cols : b.rows), std::size_t(c.cols));
  require_extent("gemm.b inner extent", std::size_t(B == op::plain ? b.rows : b.cols), k);
  if (c.rows == 0 || c.cols == 0) return;
  auto& plans = ctx.products();
  bool const stage = is_half<U> && plus.bias != nullptr;
  // The first plan takes the memory that the bias is staged in.
  detail::product_plan* plan = &detail::find_product<A, B>(ctx, a, b, c, plus.matrix, nullptr);
  bool separate = plus.bias != nullptr;
  void const* bias = stage ? static_cast<void const*>(plans.bias_data()) : plus.bias;
  if (separate && (!stage || std::size_t(c.cols) * sizeof(U) <= plans.bias_bytes)) {
    auto& with_bias = detail::find_product<A, B>(ctx, a, b, c, plus.matrix, bias);
    if (with_bias.found) plan = &with_bias, separate = false;
  }
  if (!ctx.reserve(0)) return;
  if (!plan->found) {
    detail::own_product<A == op::transposed, B == op::transposed>(
        ctx.stream(), detail::product_factor<T>{a.data, a.stride}, detail::product_factor<T>{b.data, b.stride}, c.data,
        plus.matrix, plus.bias, c.stride, {c.rows, c.cols, std::int64_t(k)});
    return;
  }
  if (stage && !separate) detail::round_bias(ctx.stream(), plus.bias, c.cols, reinterpret_cast<U*>(plans.bias_data()));
  detail::run_product(ctx, *plan, a, b, c, plus.matrix, plus.bias == nullptr || separate ? nullptr : bias);
  if (separate) detail::add_bias(ctx.stream(), c.data, c.rows, c.cols, c.stride, plus.bias);
}

}  // namespace dm2::cuda
