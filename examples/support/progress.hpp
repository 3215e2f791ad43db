/// @file
/// A progress bar on stderr.
#pragma once

#include <dm2/train/log/progress.hpp>

#include "text.hpp"

#include <array>
#include <cstddef>
#include <cstdio>
#include <string>

namespace dm2::example {

/// A status_line with a bar for a known number of pictures.
class progress_bar {
 public:
  explicit progress_bar(std::size_t total, bool enabled = stderr_is_terminal()) : total_{total}, out_{enabled} {}

  void show(std::size_t done) {
    if (out_.due()) out_.show(line(done, out_.seconds()));
  }

  /// Call it before anything else is printed.
  void clear() { out_.clear(); }

  /// "[#######.......]  120 / 240 pictures  35.2/s  0:03 left"
  [[nodiscard]] std::string line(std::size_t done, double seconds) const {
    double const rate = seconds > 0 ? double(done) / seconds : 0;
    std::string text = bar_text(done, total_, 30) + "  " + grouped(done) + " / " + counted(total_, "picture");
    if (done == 0) return text;
    std::array<char, 64> speed;
    std::snprintf(speed.data(), speed.size(), "  %.1f/s  ", rate);
    return text + speed.data() + duration_text(rate > 0 ? double(total_ - done) / rate : 0) + " left";
  }

 private:
  std::size_t total_;
  status_line out_;
};

}  // namespace dm2::example
