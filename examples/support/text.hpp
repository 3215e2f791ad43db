/// @file
/// Text for people: safe to print, of known width.
#pragma once

#include <dm2/core/utf8.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace dm2::example {

using dm2::detail::printable;

/// The text with '?' for what could move a terminal's cursor, but the ends of lines; other bytes are left as they are,
/// so that names which are no UTF-8 can still be told apart.
[[nodiscard]] inline std::string without_controls(std::string_view text) {
  std::string out{text};
  for (std::size_t i = 0; i < out.size(); ++i) {
    auto const byte = static_cast<unsigned char>(out[i]);
    auto const next = static_cast<unsigned char>(i + 1 < out.size() ? out[i + 1] : 0);
    if ((byte < 0x20 && byte != '\n') || byte == 0x7F) out[i] = '?';
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) out[i] = out[i + 1] = '?', ++i;
  }
  return out;
}

/// JSON text with the controls that JSON does not ask to be escaped, U+007F to U+009F, escaped.
[[nodiscard]] inline std::string printable_json(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto const byte = static_cast<unsigned char>(text[i]);
    auto const next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    bool const pair = byte == 0xC2 && next >= 0x80 && next < 0xA0;
    if (byte != 0x7F && !pair) {
      out += text[i];
      continue;
    }
    std::array<char, 8> escaped;
    std::snprintf(escaped.data(), escaped.size(), "\\u%04x", unsigned{pair ? next : byte});
    out += escaped.data();
    i += pair ? 1 : 0;
  }
  return out;
}

/// Code points of UTF-8 text: columns on a terminal, for most scripts.
[[nodiscard]] inline std::size_t text_width(std::string_view text) {
  return std::size_t(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

/// "1,234,567"
[[nodiscard]] inline std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

/// "1 picture", "1,234 pictures"; `many` is for a word whose plural has more than an s.
[[nodiscard]] inline std::string counted(std::uint64_t number, std::string const& one, std::string const& many = "") {
  return grouped(number) + ' ' + (number == 1 ? one : many.empty() ? one + 's' : many);
}

/// "1,023 bytes", "36.3 MiB"
[[nodiscard]] inline std::string byte_size(std::uint64_t bytes) {
  if (bytes < 1024) return counted(bytes, "byte");
  constexpr std::array<char const*, 4> units{"KiB", "MiB", "GiB", "TiB"};
  double value = double(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.1f %s", value, units[unit]);
  return text.data();
}

/// "12.34 %"; "nan" for what is no number.
[[nodiscard]] inline std::string percent(float fraction) {
  if (std::isnan(fraction)) return "nan";
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.2f %%", 100 * double(fraction));
  return text.data();
}

/// The shortest decimal form that reads back as the same float: "0.1372". "nan", never "-nan".
[[nodiscard]] inline std::string shortest(float value) {
  if (std::isnan(value)) return "nan";
  std::array<char, 32> text;
  auto const [end, problem] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

}  // namespace dm2::example
