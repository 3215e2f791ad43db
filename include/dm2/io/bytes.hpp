/// @file
/// Little-endian numbers and text inside untrusted bytes.
#pragma once

#include <dm2/core/compiler.hpp>

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace dm2::detail {

static_assert(std::endian::native == std::endian::little,
              "dm2/io: tensors are read in place, and every supported file is little-endian: the machine must be, too");

/// The object stored at `at`, at any alignment. The caller has checked that sizeof(T) bytes are there.
template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] T read_le(std::byte const* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// a * b, or nothing where it does not fit.
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_product(std::uint64_t a, std::uint64_t b) noexcept {
  if (a != 0 && b > ~std::uint64_t{0} / a) return std::nullopt;
  return a * b;
}

/// Whether [first, first + count) lies inside [0, size), without overflow.
[[nodiscard]] constexpr bool in_range(std::uint64_t first, std::uint64_t count, std::uint64_t size) noexcept {
  return first <= size && count <= size - first;
}

/// Bytes as text; no terminator, no check of the encoding.
[[nodiscard]] inline std::string_view as_text(std::span<std::byte const> bytes) noexcept {
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

/// The length of the UTF-8 sequence that begins with `lead`, its smallest code point in `least`; 0 where none can.
[[nodiscard]] constexpr std::size_t utf8_length(unsigned char lead, std::uint32_t& least) noexcept {
  if (lead < 0x80) return least = 0, 1;
  if (lead >= 0xC2 && lead < 0xE0) return least = 0x80, 2;
  if (lead >= 0xE0 && lead < 0xF0) return least = 0x800, 3;
  if (lead >= 0xF0 && lead < 0xF5) return least = 0x10000, 4;
  return 0;
}

/// Whether `text` is UTF-8 as JSON needs it: no overlong form, no surrogate, nothing past U+10FFFF.
[[nodiscard]] constexpr bool is_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    std::uint32_t least = 0;
    std::size_t const length = utf8_length(static_cast<unsigned char>(text[i]), least);
    if (length == 0 || length > text.size() - i) return false;
    std::uint32_t code = static_cast<unsigned char>(text[i]) & (length == 1 ? 0x7Fu : 0xFFu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k) {
      auto const next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0u) != 0x80u) return false;
      code = code << 6 | (next & 0x3Fu);
    }
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += length;
  }
  return true;
}

}  // namespace dm2::detail
