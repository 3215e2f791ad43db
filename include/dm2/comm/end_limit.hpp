/// @file
/// A limit on the time that a leaving process takes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace dm2::detail {

/// Calls `late`, from a thread of its own, unless it is destroyed within `seconds`. What a library waits for at its end
/// cannot be called back, so that `late` ends the process.
class end_limit {
 public:
  end_limit(double seconds, std::function<void()> late)
      : thread_{[seconds, call = std::move(late)](std::stop_token const& stop) {
          std::mutex mutex;
          std::condition_variable_any sleep;
          std::unique_lock lock{mutex};
          sleep.wait_for(lock, stop, std::chrono::duration<double>(seconds), [] { return false; });
          if (!stop.stop_requested()) call();
        }} {}

 private:
  std::jthread thread_;
};

}  // namespace dm2::detail
