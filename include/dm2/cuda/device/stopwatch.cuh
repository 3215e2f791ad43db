/// @file
/// How long a device works on stretches of a stream.
#pragma once

#include <dm2/cuda/device/stream.cuh>

#include <deque>
#include <utility>
#include <vector>

namespace dm2::cuda {

/// Adds up the device's time of the stretches between begin and end. Nothing waits for them.
///
///     watch.begin(s); kernel<<<1, 32, 0, s>>>(); watch.end(s);
///     watch.seconds();   // 0 until the kernel is done
class stopwatch {
 public:
  /// A stretch begins behind what is in `s`. Throws error.
  void begin(cudaStream_t s) {
    static_cast<void>(seconds());  // so that few are kept where nobody asks
    if (unused_.empty()) unused_.emplace_back();
    unused_.back().begin.record(s);
  }
  /// It ends behind what is in `s` now. Throws error.
  void end(cudaStream_t s) {
    unused_.back().end.record(s);
    under_way_.push_back(std::move(unused_.back()));
    unused_.pop_back();
  }
  /// Of the stretches that are done. Throws error where the device's work has failed.
  [[nodiscard]] double seconds() {
    while (!under_way_.empty() && under_way_.front().end.done()) {
      seconds_ += under_way_.front().end.seconds_since(under_way_.front().begin);
      unused_.push_back(std::move(under_way_.front()));
      under_way_.pop_front();
    }
    return seconds_;
  }

 private:
  struct stretch {
    event begin{true}, end{true};
  };
  std::deque<stretch> under_way_;
  std::vector<stretch> unused_;
  double seconds_ = 0;
};

}  // namespace dm2::cuda
