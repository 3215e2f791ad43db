/// @file
/// A limit on the time that a leaving process takes.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace dm2::detail {

/// Calls `late`, from a thread of its own, unless it is destroyed within `seconds`. What a library waits for at its end
/// cannot be called back, so that `late` ends the process. Only time in which this process runs counts, a quarter of a
/// second at a time: one that was stopped (SIGSTOP) and is continued must not blame the others for its own absence.
class end_limit {
 public:
  end_limit(double seconds, std::function<void()> late)
      : thread_{[seconds, call = std::move(late)](std::stop_token const& stop) {
          std::mutex mutex;
          std::condition_variable_any sleep;
          std::unique_lock lock{mutex};
          for (double left = seconds; left > 0 && !stop.stop_requested(); left -= nap)
            sleep.wait_for(lock, stop, std::chrono::duration<double>(std::min(left, nap)), [] { return false; });
          if (!stop.stop_requested()) call();
        }} {}

 private:
  static constexpr double nap = 0.25;
  std::jthread thread_;
};

}  // namespace dm2::detail
