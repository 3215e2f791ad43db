/// @file
/// Half precision and bfloat16 to float: exact, for all 65,536 patterns of each. Float to half precision: the nearest.
#pragma once

#include <dm2/core/compiler.hpp>

#include <bit>
#include <cstdint>

namespace dm2 {

/// IEEE 754 binary16, by its bits, as float. Subnormals, infinities and NaNs (payload kept) included.
[[nodiscard]] constexpr float half_to_float(std::uint16_t bits) noexcept {
  std::uint32_t const sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1Fu, fraction = bits & 0x3FFu;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in float
    float const magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  std::uint32_t const wide = exponent == 0x1F ? 0xFFu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

/// The bits of the IEEE 754 binary16 nearest to `value`, the even one of two that are as near. From 65520 on it is
/// infinity; NaN becomes a quiet NaN.
[[nodiscard]] constexpr std::uint16_t float_to_half(float value) noexcept {
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t const sign = bits >> 16 & 0x8000u;
  std::uint32_t rounded = 0;
  if (magnitude > 0x7F800000u)
    rounded = 0x7E00u;
  else if (magnitude >= 0x477FF000u)  // 65520, half way from the largest half to the next power of two
    rounded = 0x7C00u;
  else if (magnitude < 0x38800000u)  // below 2^-14 halves are 2^-24 apart, as floats are from 0.5 to 1
    rounded = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  else  // a carry out of the fraction goes into the exponent, as it has to
    rounded = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  return static_cast<std::uint16_t>(sign | rounded);
}

/// bfloat16, by its bits, as float: the upper half of a float's bits.
[[nodiscard]] constexpr float bfloat16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace dm2
