/// @file
/// The instructions of dm2/cuda/instructions/pack.cuh on the host.
#pragma once

#include <dm2/cuda/element.cuh>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dm2::cuda::detail {

template <class T>
std::uint32_t pack(float low, float high) {
  static_assert(is_half<T>);
  T const both[2] = {from_float<T>(low), from_float<T>(high)};
  std::uint32_t r;
  std::memcpy(&r, both, 4);
  return r;
}
template <class T>
std::uint32_t pack_relu(float low, float high) {
  return pack<T>(low < 0 ? 0.f : low, high < 0 ? 0.f : high);
}
template <class T>
float2 unpack(std::uint32_t v) {
  static_assert(is_half<T>);
  T both[2];
  std::memcpy(both, &v, 4);
  return {to_float(both[0]), to_float(both[1])};
}
template <class T>
std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
  float2 const x = unpack<T>(a), y = unpack<T>(b);
  return pack<T>(x.x * y.x, x.y * y.y);
}
template <class T>
std::uint32_t fma_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  float2 const x = unpack<T>(a), y = unpack<T>(b), z = unpack<T>(c);
  return pack<T>(std::fma(x.x, y.x, z.x), std::fma(x.y, y.y, z.y));
}
/// Eigen's tanh, right to some units of the last place. The C library's took a third of the time of the mixer's tests.
inline float tanh_rational(float x) { return std::isnan(x) ? x : Eigen::numext::tanh(x); }
inline std::uint32_t tanh_halves(std::uint32_t x) {
  float2 const v = unpack<__half>(x);
  return pack<__half>(tanh_rational(v.x), tanh_rational(v.y));
}
inline std::uint32_t pack_finite_halves(float low, float high) {
  auto const finite = [](float x) { return std::isnan(x) ? x : std::clamp(x, -65504.f, 65504.f); };
  return pack<__half>(finite(low), finite(high));
}
template <class T>
std::uint32_t as_halves(std::uint32_t v) {
  if constexpr (std::is_same_v<T, __half>) return v;
  float2 const both = unpack<T>(v);
  return pack_finite_halves(both.x, both.y);
}

}  // namespace dm2::cuda::detail
