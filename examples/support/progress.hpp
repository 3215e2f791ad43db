/// @file
/// A progress bar on stderr.
#pragma once

#include "text.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace dm2::example {

/// Whether a person is looking at stderr.
[[nodiscard]] inline bool stderr_is_terminal() {
#if defined(__unix__) || defined(__APPLE__)
  return ::isatty(STDERR_FILENO) == 1;
#else
  return false;
#endif
}

/// A bar that is drawn only on a terminal, and only for work of half a second or more; at most ten times a second.
///
/// Call clear before anything else is printed: both may be one terminal.
class progress_bar {
 public:
  explicit progress_bar(std::size_t total, bool enabled = stderr_is_terminal()) : total_{total}, enabled_{enabled} {}
  progress_bar(progress_bar const&) = delete;
  progress_bar& operator=(progress_bar const&) = delete;
  ~progress_bar() { clear(); }

  void show(std::size_t done) {
    using namespace std::chrono_literals;
    auto const now = clock::now();
    if (!enabled_ || now - begin_ < 500ms || (drawn_ && now - last_ < 100ms)) return;
    last_ = now;
    drawn_ = true;
    std::string const text = "\r" + line(done, std::chrono::duration<double>(now - begin_).count()) + "\x1b[K";
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }

  void clear() {
    if (!drawn_) return;
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }

  /// "[#######.......]  120 / 240 pictures  35.2/s  0:03 left"
  [[nodiscard]] std::string line(std::size_t done, double seconds) const {
    constexpr std::size_t width = 30;
    std::size_t const filled = total_ == 0 ? width : width * done / total_;
    double const rate = seconds > 0 ? double(done) / seconds : 0;
    long const left = rate > 0 ? long(double(total_ - done) / rate + 0.5) : 0;
    std::array<char, 64> tail;
    std::snprintf(tail.data(), tail.size(), "  %.1f/s  %ld:%02ld left", rate, left / 60, left % 60);
    return "[" + std::string(filled, '#') + std::string(width - filled, '.') + "]  " + grouped(done) + " / " +
           grouped(total_) + " pictures" + (done == 0 ? "" : tail.data());
  }

 private:
  using clock = std::chrono::steady_clock;
  std::size_t total_;
  bool enabled_, drawn_ = false;
  clock::time_point begin_ = clock::now(), last_ = begin_;
};

}  // namespace dm2::example
