/// @file
/// How long a process waits for others, and its last words.
#pragma once

#include <dm2/comm/communicator.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace dm2::detail {

/// Keeps when each process was last heard, and how long the longest piece of work between two exchanges took.
///
/// Processes do the same amount of work between two exchanges, or one micro-batch more. So one that is late by the
/// deadline and four times this process's own longest work is taken for lost.
class waiting {
 public:
  using clock = std::chrono::steady_clock;
  using seconds = std::chrono::duration<double>;

  waiting(int rank, int size, double deadline)
      : rank_{rank}, deadline_{deadline}, left_{clock::now()}, heard_(static_cast<std::size_t>(size), clock::now()) {}

  /// An exchange begins.
  void enter() {
    entered_ = clock::now();
    longest_work_ = std::max(longest_work_, seconds{entered_ - left_}.count());
  }
  /// A message of a process has come.
  void hear(int from) { heard_[static_cast<std::size_t>(from)] = clock::now(); }
  /// The exchange is done.
  void leave() { left_ = clock::now(); }
  /// Seconds that this exchange may take.
  [[nodiscard]] double limit() const { return deadline_ + 4 * longest_work_; }
  /// Whether it has taken longer.
  [[nodiscard]] bool over() const { return seconds{clock::now() - entered_}.count() > limit(); }

  /// "process 2 of 4 did not answer process 0 within 30.2 s in the exchange 'gradients' of step 18; last heard: process
  /// 1 0.0 s ago, process 2 31.0 s ago, process 3 0.1 s ago"
  [[nodiscard]] std::string report(char const* what, std::int64_t step, std::span<int const> missing) const {
    std::string text = missing.size() == 1 ? "process " : "processes ";
    for (std::size_t i = 0; i < missing.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(missing[i]);
    text += " of " + std::to_string(heard_.size()) + " did not answer process " + std::to_string(rank_) + " within " +
            tenths(limit()) + " s " + place(what, step) + "; last heard:";
    char const* separator = " ";
    for (std::size_t r = 0; r < heard_.size(); ++r) {
      if (int(r) == rank_) continue;
      text += separator + ("process " + std::to_string(r)) + " " + tenths(seconds{clock::now() - heard_[r]}.count()) +
              " s ago";
      separator = ", ";
    }
    return text;
  }
  /// "the other processes did not end within 30.2 s of process 1"
  [[nodiscard]] static std::string end_text(double seconds, int rank) {
    return "the other processes did not end within " + tenths(seconds) + " s of process " + std::to_string(rank);
  }
  /// "31.0"
  static std::string tenths(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", x);
    return text;
  }
  /// "in the exchange 'gradients' of step 18"
  [[nodiscard]] static std::string place(char const* what, std::int64_t step) {
    return "in the exchange '" + std::string{what} + "' of step " + std::to_string(step + 1);
  }

 private:
  int rank_;
  double deadline_, longest_work_ = 0;
  clock::time_point entered_{}, left_;
  std::vector<clock::time_point> heard_;
};

}  // namespace dm2::detail
