/// @file
/// CRC-32C, the checksum of TensorBoard's records.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dm2::detail {

/// The change of the checksum for each value of the next byte. 0x82F63B78 is Castagnoli's polynomial with its bits
/// reversed.
inline constexpr std::array<std::uint32_t, 256> crc32c_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1u) != 0 ? 0x82F63B78u : 0u);
    table[byte] = value;
  }
  return table;
}();

/// The CRC-32C of the bytes (RFC 3720, appendix B.4).
[[nodiscard]] constexpr std::uint32_t crc32c(std::span<std::byte const> bytes) noexcept {
  std::uint32_t value = ~0u;
  for (std::byte const b : bytes)
    value = (value >> 8) ^ crc32c_table[(value ^ std::to_integer<std::uint32_t>(b)) & 0xFFu];
  return ~value;
}

/// The checksum as TFRecord files store it, turned and moved, because a checksum of data that holds checksums is weak.
[[nodiscard]] constexpr std::uint32_t masked_crc32c(std::span<std::byte const> bytes) noexcept {
  std::uint32_t const crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

}  // namespace dm2::detail
