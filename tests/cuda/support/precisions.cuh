/// @file
/// The precisions that a test of an operation goes through.
#pragma once

#include <dm2/cuda/element.cuh>

#include "cuda/support/device_array.cuh"

#include <type_traits>

namespace dm2::test {

template <cuda::precision P>
using in_precision = std::integral_constant<cuda::precision, P>;
using in_bf16 = in_precision<cuda::precision::bf16>;
using in_fp16 = in_precision<cuda::precision::fp16>;
using in_fp32 = in_precision<cuda::precision::fp32>;
using in_tf32 = in_precision<cuda::precision::tf32>;

#define DM2_PRECISIONS dm2::test::in_bf16, dm2::test::in_fp16, dm2::test::in_fp32, dm2::test::in_tf32

/// rounding_tolerance of an operation with products: TF32 keeps the mantissa that half has.
template <cuda::precision P>
inline constexpr double product_tolerance =
    P == cuda::precision::tf32 ? rounding_tolerance<__half> : rounding_tolerance<cuda::element<P>>;

}  // namespace dm2::test
