/// @file
/// A 64-bit hash of text, and its sixteen digits.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace dm2::run {

/// FNV-1a of the bytes, of what `before` is the hash of and then these. 1 GB/s. It tells apart what differs by chance;
/// whoever wants two texts of one hash can make them.
[[nodiscard]] constexpr std::uint64_t hash64(std::string_view bytes,
                                             std::uint64_t before = 0xcbf29ce484222325u) noexcept {
  for (char const byte : bytes) before = (before ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  return before;
}

/// Sixteen hexadecimal digits.
[[nodiscard]] inline std::string hash_text(std::uint64_t hash) {
  std::string out(16, '0');
  for (int i = 15; i >= 0; --i, hash >>= 4) out[std::size_t(i)] = "0123456789abcdef"[hash & 15];
  return out;
}

}  // namespace dm2::run
