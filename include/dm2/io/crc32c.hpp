/// @file
/// CRC-32C: the checksum of TensorBoard's records, and of the tensors in a training checkpoint.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace dm2::detail {

/// crc32c_tables[k][byte]: what a byte does to the checksum that k more bytes follow. 0x82F63B78 is Castagnoli's
/// polynomial with its bits reversed.
inline constexpr std::array<std::array<std::uint32_t, 256>, 8> crc32c_tables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1u) != 0 ? 0x82F63B78u : 0u);
    tables[0][byte] = value;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      std::uint32_t const before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFFu];
    }
  return tables;
}();

/// crc32c by tables, eight bytes a step ("slicing by 8"), 1.5 GB/s on a processor of 3 GHz.
[[nodiscard]] constexpr std::uint32_t crc32c_by_table(std::span<std::byte const> bytes, std::uint32_t before) noexcept {
  auto const& t = crc32c_tables;
  auto const at = [&bytes](std::size_t i) { return std::to_integer<std::uint32_t>(bytes[i]); };
  std::uint32_t value = ~before;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    value ^= at(i) | at(i + 1) << 8 | at(i + 2) << 16 | at(i + 3) << 24;
    value = t[7][value & 0xFFu] ^ t[6][value >> 8 & 0xFFu] ^ t[5][value >> 16 & 0xFFu] ^ t[4][value >> 24] ^
            t[3][at(i + 4)] ^ t[2][at(i + 5)] ^ t[1][at(i + 6)] ^ t[0][at(i + 7)];
  }
  for (; i < bytes.size(); ++i) value = (value >> 8) ^ t[0][(value ^ at(i)) & 0xFFu];
  return ~value;
}

#if defined(__SSE4_2__) && defined(__x86_64__)
/// crc32c by the processor's own instruction, eight bytes in three clocks.
[[nodiscard]] inline std::uint32_t crc32c_by_instruction(std::span<std::byte const> bytes,
                                                         std::uint32_t before) noexcept {
  std::uint64_t value = ~before;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, sizeof word);
    value = __builtin_ia32_crc32di(value, word);
  }
  auto last = static_cast<std::uint32_t>(value);
  for (; i < bytes.size(); ++i) last = __builtin_ia32_crc32qi(last, std::to_integer<std::uint8_t>(bytes[i]));
  return ~last;
}
#endif

/// The CRC-32C of the bytes (RFC 3720, appendix B.4), of what `before` is the checksum of and then these.
[[nodiscard]] constexpr std::uint32_t crc32c(std::span<std::byte const> bytes, std::uint32_t before = 0) noexcept {
#if defined(__SSE4_2__) && defined(__x86_64__)
  if (!std::is_constant_evaluated()) return crc32c_by_instruction(bytes, before);
#endif
  return crc32c_by_table(bytes, before);
}

/// The checksum as TFRecord files store it, turned and moved, because a checksum of data that holds checksums is weak.
[[nodiscard]] constexpr std::uint32_t masked_crc32c(std::span<std::byte const> bytes) noexcept {
  std::uint32_t const crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

}  // namespace dm2::detail
