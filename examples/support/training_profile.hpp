/// @file
/// Where a run's time goes, as train --profile tells it.
#pragma once

#include <dm2/train/log/csv_log.hpp>
#include <dm2/train/log/progress.hpp>
#include <dm2/train/log/tensorboard_log.hpp>
#include <dm2/train/trainer_options.hpp>

#include "text.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dm2::example {

/// Adds up the times of steps: of the latest for the progress line, and of those between two rows for profile.csv.
class training_profile {
 public:
  /// Writes profile.csv into `folder`; `resumed`: the steps of a run that goes on.
  training_profile(std::filesystem::path const& folder, std::optional<std::int64_t> resumed)
      : rows_{folder / "profile.csv",
              "step",
              {"step_seconds", "waiting_seconds", "computing_seconds", "exchange_seconds", "exchange_bytes"},
              resumed} {}

  void add(step_report const& s) {
    sum next = of(s.times);
    recent_ = recent_ * memory;
    recent_ += next;
    row_ += next;
    epoch_ += next;
  }

  /// "  computing 93 %  exchange 2 %, 2.1 MiB a step": shares of the latest steps' time, for the progress line.
  [[nodiscard]] std::string line() const {
    time_parts const& t = recent_.times;
    if (!(recent_.steps > 0)) return {};
    return "  computing " + share(t.computing, t.total) + loading(t) +
           exchange(share(t.exchanged.seconds, t.total), recent_);
  }

  /// A row of means over the steps since the row before.
  void row(std::int64_t step, tensorboard_log& board) {
    if (!(row_.steps > 0)) return;
    time_parts const& t = row_.times;
    double const n = row_.steps, total = std::max(t.total, 1e-9);
    rows_.append(step, {t.total / n, t.waiting / n, t.computing / n, t.exchanged.seconds / n, row_.bytes / n});
    board.scalar("profile/computing", step, t.computing / total);
    board.scalar("profile/exchange", step, t.exchanged.seconds / total);
    board.scalar("profile/exchange_bytes", step, row_.bytes / n);
    row_ = {};
  }

  /// A line for each process, or the first eight and the slowest, and one for the validation.
  [[nodiscard]] std::vector<std::string> epoch(epoch_report const& e, tensorboard_log& board) {
    std::vector<std::string> lines;
    for (std::size_t r = 0; r < e.processes.size(); ++r) {
      if (r >= 8 && int(r) != e.slowest) continue;
      time_parts const& t = e.processes[r];
      sum all = of(t);
      all.steps = epoch_.steps;
      lines.push_back("  process " + std::to_string(r) + "  data " + part(t.waiting, t.total) + "  computing " +
                      part(t.computing, t.total) + loading(t) + exchange(part(t.exchanged.seconds, t.total), all));
    }
    if (e.validation.samples != 0) lines.push_back("  validating " + seconds(e.validating));
    board.scalar("profile/validating_seconds", e.step, e.validating);
    epoch_ = {};
    return lines;
  }

 private:
  static constexpr double memory = 0.9801986733067553;  // e^(-1/50), as training_meter's

  struct sum {
    time_parts times{};
    double steps = 0, bytes = 0;  ///< bytes beside times.exchanged: a sum that fades is no whole number

    sum& operator+=(sum const& o) {
      times.total += o.times.total;
      times.waiting += o.times.waiting;
      times.computing += o.times.computing;
      times.exchanged.seconds += o.times.exchanged.seconds;
      times.loading += o.times.loading;
      times.augmented.copying += o.times.augmented.copying;
      times.augmented.augmenting += o.times.augmented.augmenting;
      times.augmented.decoding += o.times.augmented.decoding;
      steps += o.steps;
      bytes += o.bytes;
      return *this;
    }
    sum operator*(double f) const {
      loading_times const& l = times.loading;
      device_times const& d = times.augmented;
      return {{times.total * f,
               times.waiting * f,
               times.computing * f,
               {0, times.exchanged.seconds * f},
               {l.reading * f, l.decoding * f, l.transforming * f},
               {d.copying * f, d.augmenting * f, d.decoding * f}},
              steps * f,
              bytes * f};
    }
  };
  static sum of(time_parts const& t) { return {t, 1, double(t.exchanged.bytes)}; }

  static std::string share(double part, double total) {
    std::array<char, 32> text;
    std::snprintf(text.data(), text.size(), "%.0f %%", total > 0 ? 100 * part / total : 0);
    return text.data();
  }
  /// "12.34 s"
  static std::string seconds(double s) {
    std::array<char, 32> text;
    std::snprintf(text.data(), text.size(), s < 100 ? "%.2f s" : "%.0f s", s);
    return text.data();
  }
  /// "12.34 s (5 %)"
  static std::string part(double s, double total) { return seconds(s) + " (" + share(s, total) + ")"; }
  /// "  reading 0.1  decoding 11.2  transforming 0.5 threads  copying 6 %  augmenting 2 %"
  static std::string loading(time_parts const& t) {
    double const total = std::max(t.total, 1e-9);
    std::array<char, 96> text;
    std::snprintf(text.data(), text.size(), "  reading %.1f  decoding %.1f  transforming %.1f threads",
                  t.loading.reading / total, t.loading.decoding / total, t.loading.transforming / total);
    std::string const host = text.data();
    if (!(t.augmented.augmenting > 0)) return host;
    std::string const decoding =
        t.augmented.decoding > 0 ? "  decoding there " + share(t.augmented.decoding, t.total) : "";
    return host + "  copying " + share(t.augmented.copying, t.total) + decoding + "  augmenting " +
           share(t.augmented.augmenting, t.total);
  }
  /// Empty where nothing was sent.
  static std::string exchange(std::string const& time, sum const& all) {
    if (!(all.bytes > 0)) return {};
    return "  exchange " + time + ", " + byte_size(std::uint64_t(all.bytes / all.steps)) + " a step";
  }

  csv_log rows_;
  sum recent_, row_, epoch_;
};

}  // namespace dm2::example
