/// @file
/// Text on a canvas.
#pragma once

#include <dm2/train/log/canvas.hpp>
#include <dm2/train/log/stroke_font.hpp>

#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <string_view>
#include <vector>

namespace dm2::detail {

/// How text is drawn.
struct text_style {
  double size = 20;     ///< pixels from one line to where a close next one would be; capitals are 5/7 of that high
  ink colour;           ///< of the lines
  double weight = 2.2;  ///< of the lines, in 1/28 of size
};

/// The place of a character in `glyphs`; what the typeface lacks is a question mark.
[[nodiscard]] inline std::string_view glyph_of(char c) noexcept {
  return c >= ' ' && c <= '~' ? glyphs[std::size_t(c - ' ')] : glyphs[std::size_t('?' - ' ')];
}

/// Whether a byte is the second or a later one of a UTF-8 character, which is drawn once.
[[nodiscard]] constexpr bool continues(char c) noexcept { return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u; }

inline constexpr double glyph_units = 28, glyph_gap = 5.2;

/// How many pixels the text takes from its first line to its last.
[[nodiscard]] inline double text_width(std::string_view text, double size) {
  double units = 0;
  for (char const c : text)
    if (!continues(c)) units += glyph_reader{glyph_of(c)}.number() + glyph_gap;
  return text.empty() ? 0 : (units - glyph_gap) * size / glyph_units;
}

/// The lines of one glyph with its origin at `at`.
[[nodiscard]] inline std::vector<std::vector<point>> glyph_paths(std::string_view glyph, point at, double scale) {
  std::vector<std::vector<point>> paths;
  glyph_reader in{glyph};
  (void)in.number();
  auto const to = [&](double x, double y) { paths.back().push_back({at.x + x * scale, at.y - y * scale}); };
  for (char command = in.command(); command != '\0'; command = in.command()) {
    if (command == 'M' || command == 'O' || paths.empty()) paths.emplace_back();
    double const x = in.number(), y = in.number();
    if (command == 'M' || command == 'L') {
      to(x, y);
      continue;
    }
    double const width = in.number(), height = in.number();
    double const from = command == 'A' ? in.number() : 0, until = command == 'A' ? in.number() : 360;
    int const steps = int(std::abs(until - from) / 10) + 2;
    for (int i = 0; i <= steps; ++i) {
      double const angle = (from + (until - from) * i / steps) * std::numbers::pi / 180;
      to(x + width * std::cos(angle), y + height * std::sin(angle));
    }
  }
  return paths;
}

/// Draws the text with its baseline from `at` on. Characters outside of ASCII are drawn as question marks.
inline void draw_text(canvas& on, point at, std::string_view text, text_style const& style) {
  double const scale = style.size / glyph_units;
  for (char const c : text) {
    if (continues(c)) continue;
    std::string_view const glyph = glyph_of(c);
    for (auto const& path : glyph_paths(glyph, at, scale)) on.stroke(path, style.weight * scale, style.colour);
    at.x += (glyph_reader{glyph}.number() + glyph_gap) * scale;
  }
}

}  // namespace dm2::detail
