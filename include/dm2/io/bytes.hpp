/// @file
/// Little-endian numbers and text inside untrusted bytes.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/core/utf8.hpp>

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

}  // namespace dm2::detail
