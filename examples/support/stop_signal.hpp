/// @file
/// A flag that is set by signals that stop a run.
#pragma once

#include <array>
#include <atomic>
#include <csignal>

#include <signal.h>

namespace dm2::example {

inline std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

/// Sets what a signal does, unless it is ignored, as nohup leaves SIGHUP and a shell SIGINT of its background jobs.
inline void handle_signal(int signal, void (*handler)(int)) {
  struct sigaction present {
  }, wanted{};
  if (::sigaction(signal, nullptr, &present) == 0 && present.sa_handler == SIG_IGN) return;
  wanted.sa_handler = handler;
  wanted.sa_flags = SA_RESTART;
  ::sigemptyset(&wanted.sa_mask);
  ::sigaction(signal, &wanted, nullptr);
}

/// From now on these set stop_requested: SIGINT and SIGTERM, of which a second one ends the program at once; SIGHUP
/// (the terminal is gone), SIGUSR1 and SIGUSR2 (a queue's warning, which SIGTERM may follow) and SIGXCPU (a limit of
/// processor time, repeated every second), as often as they come. SIGPIPE is ignored: a closed pipe is output that
/// fails.
inline void watch_stop_signals() {
  for (int const signal : {SIGINT, SIGTERM})
    handle_signal(signal, [](int which) {
      stop_requested = true;
      std::signal(which, SIG_DFL);
    });
  for (int const signal : {SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU})
    handle_signal(signal, [](int) { stop_requested = true; });
  std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace dm2::example
