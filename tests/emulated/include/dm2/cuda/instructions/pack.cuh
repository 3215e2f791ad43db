/// @file
/// The instructions of dm2/cuda/instructions/pack.cuh on the host.
#pragma once

#include <dm2/cuda/element.cuh>

#include <cstdint>
#include <cstring>

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

}  // namespace dm2::cuda::detail
