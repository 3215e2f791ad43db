/// @file
/// The order of names that people expect: class2 before class10.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace dm2 {
namespace detail {

[[nodiscard]] constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

/// The run of digits, or of other characters, that `text` begins with (may be empty); it is cut off from `text`.
[[nodiscard]] constexpr std::string_view take_run(std::string_view& text, bool digits) noexcept {
  std::size_t n = 0;
  while (n < text.size() && is_digit(text[n]) == digits) ++n;
  std::string_view const run = text.substr(0, n);
  text.remove_prefix(n);
  return run;
}

/// Negative, zero or positive as a is before, at or after b; A to Z count as a to z, other bytes as they are.
[[nodiscard]] constexpr int compare_text(std::string_view a, std::string_view b) noexcept {
  auto const folded = [](char c) { return static_cast<unsigned char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); };
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (folded(a[i]) != folded(b[i])) return folded(a[i]) < folded(b[i]) ? -1 : 1;
  return a.size() == b.size() ? 0 : a.size() < b.size() ? -1 : 1;
}

/// The same for two numbers of any length in decimal digits.
[[nodiscard]] constexpr int compare_number(std::string_view a, std::string_view b) noexcept {
  a.remove_prefix(std::min(a.find_first_not_of('0'), a.size()));
  b.remove_prefix(std::min(b.find_first_not_of('0'), b.size()));
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  return a.compare(b);
}

}  // namespace detail

/// Whether a comes before b in natural order: names are cut into text and numbers by turns; text is compared without
/// regard to the case of A to Z, numbers by their value. Names that are equal so far ("a1" and "A01") are ordered by
/// their bytes, so that the order of different names is always the same.
[[nodiscard]] constexpr bool natural_less(std::string_view a, std::string_view b) noexcept {
  std::string_view const whole_a = a, whole_b = b;
  for (bool digits = false; !a.empty() || !b.empty(); digits = !digits) {
    std::string_view const run_a = detail::take_run(a, digits), run_b = detail::take_run(b, digits);
    if (digits && run_a.empty() != run_b.empty()) return run_a.empty();
    int const c = digits ? detail::compare_number(run_a, run_b) : detail::compare_text(run_a, run_b);
    if (c != 0) return c < 0;
  }
  return whole_a < whole_b;
}

}  // namespace dm2
