/// @file
/// Axes of charts: where values stand, which are written.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

namespace dm2::detail {

/// The values that an axis covers, low < high; with `log`, low > 0.
struct axis {
  double low = 0, high = 1;
  bool log = false;

  /// 0 at low, 1 at high.
  [[nodiscard]] double place(double value) const {
    if (log) return std::log(value / low) / std::log(high / low);
    return (value - low) / (high - low);
  }
};

/// A value that an axis marks.
struct tick {
  double value;
  std::string label;
};

/// The least of 1, 2, 5 times a power of ten that is at least x > 0.
[[nodiscard]] inline double nice_step(double x) {
  double const power = std::pow(10, std::floor(std::log10(x)));
  for (double const factor : {1.0, 2.0, 5.0})
    if (x <= factor * power * (1 + 1e-9)) return factor * power;
  return 10 * power;
}

/// A number for a reader: `decimals` digits after the point, no minus before a zero.
[[nodiscard]] inline std::string fixed_text(double value, int decimals) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value == 0 ? 0.0 : value);
  return text.data();
}

/// Up to `digits` digits, with an exponent of no more characters than it needs: 0.25, 1e-4, 3.2e11.
[[nodiscard]] inline std::string short_text(double value, int digits) {
  std::array<char, 64> chars;
  std::snprintf(chars.data(), chars.size(), "%.*g", digits, value);
  std::string text{chars.data()};
  std::size_t const e = text.find('e');
  if (e == text.npos) return text;
  std::size_t const first = text.find_first_not_of("+-0", e + 1);
  return text.substr(0, e + 1) + (text[e + 1] == '-' ? "-" : "") + text.substr(first);
}

/// "1e-4", where the labels of an axis are to look alike.
[[nodiscard]] inline std::string power_text(int factor, int power) {
  return std::to_string(factor) + "e" + std::to_string(power);
}

/// The label of a multiple of `step` on an axis whose largest magnitude is `most`: 0.25, 30, 40k, 1.5M, 2e-5.
[[nodiscard]] inline std::string tick_label(double value, double step, double most) {
  if (std::abs(value) < step / 2) return "0";
  if (most < 1e-3 || most >= 1e10) return short_text(value, 3);
  double const unit = most >= 1e6 ? 1e6 : most >= 1e4 ? 1e3 : 1;
  int const decimals = std::clamp(int(-std::floor(std::log10(step / unit) + 1e-9)), 0, 9);
  return fixed_text(value / unit, decimals) + (unit == 1e6 ? "M" : unit == 1e3 ? "k" : "");
}

/// Between about half of `count` and `count` values of a linear axis, multiples of a nice step.
[[nodiscard]] inline std::vector<tick> linear_ticks(axis const& a, double count) {
  double const step = nice_step((a.high - a.low) / count), most = std::max(std::abs(a.low), std::abs(a.high));
  double const slack = 1e-6 * step;
  std::vector<tick> out;
  for (double k = std::ceil((a.low - slack) / step); k * step <= a.high + slack && out.size() < 100; ++k)
    out.push_back({k * step, tick_label(k * step, step, most)});
  return out;
}

/// Powers of ten, every second, third... where there are more than `count`; 1, 2, 5 times them where there are few.
[[nodiscard]] inline std::vector<tick> log_ticks(axis const& a, double count) {
  double const decades = std::log10(a.high / a.low);
  if (decades < 0.7) return linear_ticks({a.low, a.high}, count);
  bool const plain = a.low > 0.9e-3 && a.high < 1.1e5;
  int const stride = std::max(1, int(std::ceil(decades / count)));
  std::vector<tick> out;
  for (int power = int(std::floor(std::log10(a.low))); power <= std::log10(a.high); ++power)
    for (int const factor : {1, 2, 5}) {
      double const value = factor * std::pow(10, power);
      if (value < a.low * (1 - 1e-9) || value > a.high * (1 + 1e-9)) continue;
      if (power % stride != 0 || (factor != 1 && 3 * decades > count + 1)) continue;
      out.push_back({value, plain ? short_text(value, 6) : power_text(factor, power)});
    }
  return out;
}

[[nodiscard]] inline std::vector<tick> ticks(axis const& a, double count) {
  return a.log ? log_ticks(a, count) : linear_ticks(a, count);
}

/// The axis that shows every value of [low, high], widened where they are one number; `round` moves its ends
/// outwards to round values.
[[nodiscard]] inline axis axis_over(double low, double high, bool log, bool round, double count) {
  if (log) {
    if (!(high > 1.01 * low)) {
      low /= 1.25;
      high *= 1.25;
    }
    return round && high > 3 * low ? axis{1 / nice_step(1 / low), nice_step(high), true} : axis{low, high, true};
  }
  double const most = std::max(std::abs(low), std::abs(high));
  constexpr double least = 1e-290;  // parts of a smaller range are denormal numbers, or 0
  if (!(high - low > std::max(1e-9 * most, least))) {
    double const margin = most < least ? 1 : most / 8;
    low -= margin;
    high += margin;
  }
  if (!round) return {low, high};
  double const step = nice_step((high - low) / count);
  return {std::floor(low / step + 1e-6) * step, std::ceil(high / step - 1e-6) * step};
}

}  // namespace dm2::detail
