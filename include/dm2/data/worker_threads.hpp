/// @file
/// Work on files by several threads.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dm2 {

/// `asked`, or the number of the machine's processors where that is 0 or less.
[[nodiscard]] inline int worker_count(int asked) noexcept {
  return asked > 0 ? asked : int(std::max(1u, std::thread::hardware_concurrency()));
}

/// Calls f(i) for each i from 0 to n - 1, from up to `threads` threads (0: as many as there are processors), the
/// calling one among them. Each thread takes the smallest i that nobody has.
///
/// Throws the first exception that any f threw, after all threads have ended; no i is taken after it.
template <class F>
void for_each_index(std::size_t n, int threads, F&& f) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first;
  auto const work = [&] {
    try {
      for (std::size_t i = next++; i < n; i = next++) f(i);
    } catch (...) {
      next = n;  // a thread may still add a few to it, which stays far from wrapping round
      std::lock_guard const lock{mutex};
      if (!first) first = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    std::size_t const count = std::min(n, std::size_t(worker_count(threads)));
    try {
      for (std::size_t i = 1; i < count; ++i) others.emplace_back(work);
    } catch (...) {
      next = n;
      throw;
    }
    work();
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace dm2
