/// @file
/// timm's text form of RandAugment's settings.
#pragma once

#include <dm2/data/augment/augmentation.hpp>

#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

namespace dm2 {
namespace detail {

/// One section of the text, as key and number.
struct text_setting {
  std::string_view key;
  double value;
};

[[noreturn]] inline void refuse_setting(std::string_view text, std::string_view part, char const* reason) {
  throw std::invalid_argument{"RandAugment settings '" + std::string{text} + "': '" + std::string{part} + "' " +
                              reason};
}

/// "mstd0.5" is {"mstd", 0.5}; "mstdinf" is infinite.
[[nodiscard]] inline text_setting parse_setting(std::string_view text, std::string_view part) {
  std::size_t const split = part.starts_with("mstdinf") ? 4 : part.find_first_of("0123456789.");
  if (split == 0 || split == std::string_view::npos) refuse_setting(text, part, "is not a key and a number");
  text_setting s{part.substr(0, split), 0};
  char const* const end = part.data() + part.size();
  auto const [stop, error] = std::from_chars(part.data() + split, end, s.value);
  if (error != std::errc{} || stop != end) refuse_setting(text, part, "does not end in a number");
  return s;
}

/// Enters one setting into a.
inline void enter_setting(augmentation& a, bool& increasing, std::string_view text, std::string_view part) {
  auto const [key, value] = parse_setting(text, part);
  if (key == "m")
    a.magnitude = value;
  else if (key == "n") {
    if (value != std::floor(value) || value > 1000) refuse_setting(text, part, "is not a count of operations");
    a.operations = static_cast<int>(value);
  } else if (key == "p")
    a.operation_probability = value;
  else if (key == "mstd")
    a.magnitude_std = value > 100 ? std::numeric_limits<double>::infinity() : value;
  else if (key == "mmax")
    a.magnitude_max = value;
  else if (key == "inc")
    increasing = value != 0;
  else
    refuse_setting(text, part, "has an unknown key; known are m, n, p, mstd, mmax and inc");
}

}  // namespace detail

/// `base` with RandAugment's settings from timm's text, such as "rand-m9-mstd0.5-inc1": sections in any order after
/// "rand", each a key and a number.
///
/// m     magnitude, 10 if absent            mstd  its standard deviation, 0 if absent; above 100 or inf: uniform
/// n     operations drawn, 2 if absent      p     probability of each, 0.5 if absent
/// mmax  largest magnitude, 10 if absent    inc1  the increasing operations, which must be given: others are not here
///
/// Throws std::invalid_argument that quotes the text and the section, and as require_augmentation does.
[[nodiscard]] inline augmentation parse_rand_augment(std::string_view text, augmentation base = {}) {
  std::size_t from = text.find('-');
  if (text.substr(0, from) != "rand")
    throw std::invalid_argument{"RandAugment settings '" + std::string{text} + "': expected 'rand-...', such as " +
                                "'rand-m9-mstd0.5-inc1'"};
  base.magnitude = base.magnitude_max = 10;
  base.magnitude_std = 0;
  base.operations = 2;
  base.operation_probability = 0.5;
  bool increasing = false;
  while (from != std::string_view::npos) {
    std::size_t const next = text.find('-', from + 1);
    detail::enter_setting(base, increasing, text,
                          text.substr(from + 1, next == std::string_view::npos ? next : next - from - 1));
    from = next;
  }
  if (!increasing)
    throw std::invalid_argument{"RandAugment settings '" + std::string{text} +
                                "': only the increasing operations are here; add '-inc1'"};
  require_augmentation(base);
  return base;
}

}  // namespace dm2
