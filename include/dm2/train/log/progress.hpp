/// @file
/// A line on a terminal that says how far the work is.
#pragma once

#include <dm2/train/log/training_meter.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/ioctl.h>
#include <unistd.h>
#endif

namespace dm2 {

/// Whether a person is looking at stderr.
[[nodiscard]] inline bool stderr_is_terminal() {
#if defined(__unix__) || defined(__APPLE__)
  return ::isatty(STDERR_FILENO) == 1;
#else
  return false;
#endif
}

/// How many characters fit on a line of stderr's terminal; 80 where that cannot be found out.
[[nodiscard]] inline std::size_t terminal_columns() {
#if defined(__unix__) || defined(__APPLE__)
  ::winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
#endif
  return 80;
}

/// A line that is drawn over itself on stderr: only on a terminal, only for work of half a second or more, at most ten
/// times a second, and cut off at the terminal's width.
///
/// Call clear before anything else is printed: both may be one terminal.
class status_line {
 public:
  /// A line that draws nothing yet, and never does unless `enabled`.
  explicit status_line(bool enabled = stderr_is_terminal()) : enabled_{enabled} {}
  status_line(status_line const&) = delete;
  status_line& operator=(status_line const&) = delete;
  ~status_line() { clear(); }

  /// Whether show would draw now; ask before putting together a costly text.
  [[nodiscard]] bool due() const {
    using namespace std::chrono_literals;
    auto const now = clock::now();
    return enabled_ && now - begin_ >= 500ms && (!drawn_ || now - last_ >= 100ms);
  }

  /// Draws the ASCII text, if it is time to.
  void show(std::string const& text) {
    if (!due()) return;
    last_ = clock::now();
    drawn_ = true;
    std::string const line = "\r" + text.substr(0, terminal_columns() - 1) + "\x1b[K";
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
  }

  /// Leaves the terminal's line empty.
  void clear() {
    if (!drawn_) return;
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }

  /// Since the line was made.
  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(clock::now() - begin_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  bool enabled_, drawn_ = false;
  clock::time_point begin_ = clock::now(), last_ = begin_;
};

/// "[#####.....]", `width` characters between the brackets; work of no parts is done.
[[nodiscard]] inline std::string bar_text(std::size_t done, std::size_t total, std::size_t width) {
  double const part = total == 0 ? 1 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  auto const filled = static_cast<std::size_t>(part * static_cast<double>(width));
  return "[" + std::string(filled, '#') + std::string(width - filled, '.') + "]";
}

/// "0:03", "12:59", "3:07:00", "2 d 03:12"; "?" for what is negative, no number or longer than ten thousand days.
[[nodiscard]] inline std::string duration_text(double seconds) {
  if (!(seconds >= 0 && seconds < 864e6)) return "?";
  long const s = std::lround(seconds), hours = s / 3600, days = hours / 24;
  std::array<char, 64> text;
  if (days > 0)
    std::snprintf(text.data(), text.size(), "%ld d %02ld:%02ld", days, hours % 24, s / 60 % 60);
  else if (hours > 0)
    std::snprintf(text.data(), text.size(), "%ld:%02ld:%02ld", hours, s / 60 % 60, s % 60);
  else
    std::snprintf(text.data(), text.size(), "%ld:%02ld", s / 60, s % 60);
  return text.data();
}

/// Where a run is.
struct training_position {
  std::int64_t epoch = 0;    ///< counted from 1
  std::int64_t epochs = 0;   ///< of the run
  std::int64_t step = 0;     ///< steps done of the epoch
  std::int64_t steps = 0;    ///< of each epoch
  double learning_rate = 0;  ///< of the latest step

  /// Of the whole run.
  [[nodiscard]] std::int64_t steps_left() const {
    return std::max<std::int64_t>(0, (epochs - epoch) * steps + steps - step);
  }
};

/// "epoch 3/300 [####......] 120/480  loss 5.1234  1234 img/s  lr 8.0e-04  data 3 %  1:02:03 left": the run's time
/// left.
[[nodiscard]] inline std::string training_line(training_position const& at, training_meter const& meter) {
  auto const part = [](std::int64_t value) { return static_cast<std::size_t>(std::max<std::int64_t>(0, value)); };
  double const rate = meter.images_per_second();
  std::array<char, 160> numbers;
  std::snprintf(numbers.data(), numbers.size(), "  loss %.4f  %.*f img/s  lr %.1e  data %.0f %%  ", meter.loss(),
                rate < 100 ? 1 : 0, rate, at.learning_rate, 100 * meter.waiting_share());
  return "epoch " + std::to_string(at.epoch) + "/" + std::to_string(at.epochs) + " " +
         bar_text(part(at.step), part(at.steps), 10) + " " + std::to_string(at.step) + "/" + std::to_string(at.steps) +
         numbers.data() + duration_text(meter.seconds_for(at.steps_left())) + " left";
}

}  // namespace dm2
