/// @file
/// Half precision and bfloat16 to float: exact, for all 65,536 patterns of each.
#pragma once

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

/// bfloat16, by its bits, as float: the upper half of a float's bits.
[[nodiscard]] constexpr float bfloat16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace dm2
