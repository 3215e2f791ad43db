/// @file
/// Matrix products on row-major memory.
///
/// Through cuBLASLt, and by a kernel of our own where it has none.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/block_product.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// A factor in memory.
template <class T>
struct product_factor {
  T const* data;        ///< element (0, 0)
  std::int64_t stride;  ///< elements from row to row
};

/// Extents of c and of the sums.
struct product_extents {
  std::int64_t m, n, k;
};

/// Element (i, k) of a factor with `extent` rows of the sum's k, or, Transposed, columns; zero outside.
template <bool Transposed, class T>
__device__ inline float factor_at(product_factor<T> f, std::int64_t i, std::int64_t extent, std::int64_t k) {
  return i < extent ? to_float(f.data[Transposed ? k * f.stride + i : i * f.stride + k]) : 0.f;
}

/// c = op(a) op(b) + addend + bias in float; either of the latter may be null, and the addend may be c.
template <bool TransposeA, bool TransposeB, class T, class U>
__global__ void __launch_bounds__(block_threads)
    product_kernel(product_factor<T> a, product_factor<T> b, U* c, U const* addend, float const* bias,
                   std::int64_t stride, product_extents e) {
  __shared__ block_stage stage;
  std::int64_t const row0 = std::int64_t{blockIdx.x} * block_side, col0 = std::int64_t{blockIdx.y} * block_side;
  block_tile sum;
  block_product<!TransposeA, TransposeB>(
      sum, stage, e.k, [&](int i, std::int64_t k) { return factor_at<TransposeA>(a, row0 + i, e.m, k); },
      [&](int j, std::int64_t k) { return factor_at<!TransposeB>(b, col0 + j, e.n, k); });
  sum.each([&](int i, int j, float v) {
    std::int64_t const row = row0 + i, col = col0 + j;
    if (row >= e.m || col >= e.n) return;
    if (addend != nullptr) v += to_float(addend[row * stride + col]);
    if (bias != nullptr) v += bias[col];
    c[row * stride + col] = from_float<U>(v);
  });
}

/// c = op(a) op(b) + addend + bias for any extents and addresses.
template <bool TransposeA, bool TransposeB, class T, class U>
void own_product(cudaStream_t stream, product_factor<T> a, product_factor<T> b, U* c, U const* addend,
                 float const* bias, std::int64_t stride, product_extents e) {
  dim3 const grid(unsigned((e.m + block_side - 1) / block_side), unsigned((e.n + block_side - 1) / block_side));
  launch("gemm: own product", product_kernel<TransposeA, TransposeB, T, U>, {grid, block_threads}, stream, a, b, c,
         addend, bias, stride, e);
}

/// out = bias, rounded.
template <class U>
__global__ void round_bias_kernel(float const* bias, std::int64_t n, U* out) {
  std::int64_t const i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) out[i] = from_float<U>(bias[i]);
}
template <class U>
void round_bias(cudaStream_t stream, float const* bias, std::int64_t n, U* out) {
  launch("gemm: bias", round_bias_kernel<U>, {unsigned((n + 255) / 256), 256}, stream, bias, n, out);
}

/// c[row, :] += bias
template <class U>
__global__ void add_bias_kernel(U* c, std::int64_t rows, std::int64_t cols, std::int64_t stride, float const* bias) {
  std::int64_t const at = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= rows * cols) return;
  U& x = c[at / cols * stride + at % cols];
  x = from_float<U>(to_float(x) + bias[at % cols]);
}
template <class U>
void add_bias(cudaStream_t stream, U* c, std::int64_t rows, std::int64_t cols, std::int64_t stride, float const* bias) {
  launch("gemm: bias", add_bias_kernel<U>, {unsigned((rows * cols + 255) / 256), 256}, stream, c, rows, cols, stride,
         bias);
}

}  // namespace dm2::cuda::detail

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
  product_key const key{.in = data_type<T>,
                        .out = data_type<U>,
                        .tf32 = P == precision::tf32,
                        .a_transposed = A == op::transposed,
                        .b_transposed = B == op::transposed,
                        .m = c.rows,
                        .n = c.cols,
                        .k = A == op::plain ? a.cols : a.rows,
                        .lda = a.stride,
                        .ldb = b.stride,
                        .ldc = c.stride,
                        .alignment = aligned,
                        .bias_alignment = bias == nullptr ? 0 : alignment_of(bias)};
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
