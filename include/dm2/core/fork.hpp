/// @file
/// Forks of the process, which leave every thread but one behind.
#pragma once

#include <dm2/core/compiler.hpp>

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace dm2::detail {

inline std::atomic<unsigned> forks_counted{0};

/// Forks from this process's ancestors to it, since the first call.
[[nodiscard]] inline unsigned fork_count() {
#if defined(__unix__) || defined(__APPLE__)
  static int const registered = pthread_atfork(nullptr, nullptr, [] { forks_counted.fetch_add(1); });
  static_cast<void>(registered);
#endif
  return forks_counted.load(std::memory_order_relaxed);
}

/// Whether the calling thread may compute with others. No in a forked process whose parent did so in this thread: GNU's
/// OpenMP would wait for the others, which stayed behind.
[[nodiscard]] inline bool may_form_team() {
  thread_local unsigned const first_team = fork_count();
  return first_team == fork_count();
}

}  // namespace dm2::detail
