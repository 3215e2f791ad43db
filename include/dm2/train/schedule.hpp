/// @file
/// The learning rate of an epoch.
#pragma once

#include <dm2/core/error.hpp>

#include <cmath>
#include <numbers>

namespace dm2 {

/// Linear warm-up, then cosine (Loshchilov & Hutter 2017, arXiv 1608.03983). The defaults are the published recipe's.
struct schedule {
  double base = 1e-4;   ///< after the warm-up
  double start = 1e-7;  ///< of epoch 0
  double floor = 1e-6;  ///< at epoch `epochs`
  int warmup = 10;      ///< epochs; the last of them has the base rate
  int epochs = 300;     ///< in all, the warm-up included

  /// The rate of an epoch, counted from 0: start + epoch (base - start) / (warmup - 1) in the warm-up, then
  /// floor + (base - floor) (1 + cos(pi (epoch - warmup) / (epochs - warmup))) / 2; the floor from `epochs` on.
  [[nodiscard]] double rate(int epoch) const {
    if (epoch < warmup) return warmup == 1 ? base : start + epoch * (base - start) / (warmup - 1);
    if (epoch >= epochs) return floor;
    return floor + 0.5 * (base - floor) * (1 + std::cos(std::numbers::pi * (epoch - warmup) / (epochs - warmup)));
  }
};

/// Throws std::invalid_argument naming the field that is below 0, or that is a rate and no number.
inline void require_schedule(schedule const& s) {
  auto const require_rate = [](char const* what, double rate) {
    detail::require_option(rate >= 0 && rate < HUGE_VAL, what, rate, "a number of at least 0");
  };
  require_rate("schedule: base", s.base);
  require_rate("schedule: start", s.start);
  require_rate("schedule: floor", s.floor);
  detail::require_option(s.warmup >= 0, "schedule: warmup", s.warmup, "at least 0");
  detail::require_option(s.epochs >= 0, "schedule: epochs", s.epochs, "at least 0");
}

}  // namespace dm2
