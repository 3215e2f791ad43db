/// @file
/// Precisions, and the numbers that each computes with.
///
/// What lies between kernels, and what products read.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace dm2::cuda {

/// The numbers of activations between kernels and of a product's operands. Parameters, the residual stream, norms,
/// decays, sums and logits are float in each.
enum class precision : unsigned char {
  bf16,  ///< bfloat16, 8 bits of mantissa and float's range; half in the stem's training forward (stem_number)
  fp16,  ///< half, 11 bits of mantissa, at most 65504
  fp32,  ///< float, and products in float
  tf32   ///< float, and products of operands rounded to 10 bits of mantissa
};

namespace detail {
template <precision P>
struct element_type {
  using type = float;
};
template <>
struct element_type<precision::bf16> {
  using type = __nv_bfloat16;
};
template <>
struct element_type<precision::fp16> {
  using type = __half;
};
}  // namespace detail

/// What activations are stored as.
template <precision P>
using element = typename detail::element_type<P>::type;

/// Whether T has 16 bits, so that the tensor cores' mma.sync m16n8k16 multiplies it.
template <class T>
inline constexpr bool is_half = std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>;

namespace detail {

// Conversions by one name in each direction, since the toolkit's have a name a type.
__host__ __device__ inline float to_float(float x) { return x; }
__host__ __device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__host__ __device__ inline float to_float(__half x) { return __half2float(x); }

template <class T>
__host__ __device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else
    return x;
}

}  // namespace detail
}  // namespace dm2::cuda
