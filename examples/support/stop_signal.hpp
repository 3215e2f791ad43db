/// @file
/// A flag that SIGINT and SIGTERM set.
#pragma once

#include <atomic>
#include <csignal>

namespace dm2::example {

inline std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

/// From now on the first SIGINT or SIGTERM sets stop_requested; the second ends the program at once.
inline void watch_stop_signals() {
  auto const handler = [](int signal) {
    stop_requested = true;
    std::signal(signal, SIG_DFL);
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

}  // namespace dm2::example
