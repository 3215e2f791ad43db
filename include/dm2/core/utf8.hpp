/// @file
/// UTF-8: what is text, and untrusted text made safe to show.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dm2::detail {

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

/// The text, safe to print: names come from files. Controls, which could move a terminal's cursor or end a C string,
/// become '?', and bytes that are not UTF-8 their numbers ("st\xE9r"). The ends of lines stay where `lines` is set.
[[nodiscard]] inline std::string printable(std::string_view text, bool lines = false) {
  constexpr char const* digits = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0, length = 1; i < text.size(); i += length) {
    auto const byte = static_cast<unsigned char>(text[i]);
    std::uint32_t least = 0;
    length = utf8_length(byte, least);
    std::string_view const character = text.substr(i, length);
    if (length == 0 || !is_utf8(character)) {
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 0xF]};
      length = 1;
      continue;
    }
    bool const ascii_control = (byte < 0x20 && !(lines && byte == '\n')) || byte == 0x7F;
    bool const control = ascii_control || (byte == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0);
    out += control ? std::string(length, '?') : std::string{character};  // U+0080 to U+009F are controls too
  }
  return out;
}

}  // namespace dm2::detail
