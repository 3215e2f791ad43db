/// @file
/// Two numbers of 16 bits in a register.
#pragma once

#include <dm2/cuda/element.cuh>

#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Two numbers, rounded, the first in the lower half.
template <class T>
__device__ inline std::uint32_t pack(float low, float high) {
  static_assert(is_half<T>, "dm2::cuda::detail::pack<T>: T must have 16 bits");
  std::uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

/// max(x, 0) of two numbers, rounded; NaN stays.
template <class T>
__device__ inline std::uint32_t pack_relu(float low, float high) {
  std::uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

/// The products of two pairs, rounded.
template <class T>
__device__ inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_pairs<T>: T must have 16 bits");
  std::uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));  // -0: no product before 9.0
  else
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

/// a b + c of pairs, each rounded once.
template <class T>
__device__ inline std::uint32_t fma_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  static_assert(is_half<T>, "dm2::cuda::detail::fma_pairs<T>: T must have 16 bits");
  std::uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

/// tanh of two halves, error 2^-11.
__device__ inline std::uint32_t tanh_halves(std::uint32_t x) {
  std::uint32_t r;
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(r) : "r"(x));
  return r;
}

/// Two numbers as halves, rounded; those beyond a half's range become its greatest, NaN stays.
__device__ inline std::uint32_t pack_finite_halves(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

/// The two numbers of a register.
template <class T>
__device__ inline float2 unpack(std::uint32_t v) {
  static_assert(is_half<T>, "dm2::cuda::detail::unpack<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)};
  else
    return __half22float2(*reinterpret_cast<__half2 const*>(&v));
}

/// A pair of T as halves: what is beyond a half's range becomes its greatest number.
template <class T>
__device__ inline std::uint32_t as_halves(std::uint32_t v) {
  if constexpr (std::is_same_v<T, __half>) return v;
  float2 const both = unpack<T>(v);
  return pack_finite_halves(both.x, both.y);
}

}  // namespace dm2::cuda::detail
