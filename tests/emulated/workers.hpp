/// @file
/// Threads that run a launch's blocks. They live as long as the program.
///
/// A thread has the static shared memory of all kernels in the program as thread-local variables: 10 MB for CI's tests.
/// To make and clear that for each launch took longer than most launches.
#pragma once

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace emulated {

/// Adds the bytes of thread-local variables of every program file that is loaded.
inline std::size_t thread_local_bytes() {
  std::size_t bytes = 0;
  auto const add = [](dl_phdr_info* file, std::size_t, void* sum) {
    for (int i = 0; i < file->dlpi_phnum; ++i)
      if (file->dlpi_phdr[i].p_type == PT_TLS) *static_cast<std::size_t*>(sum) += file->dlpi_phdr[i].p_memsz;
    return 0;
  };
  dl_iterate_phdr(add, &bytes);
  return bytes;
}

/// Gives new threads a stack of 8 MB besides their thread-local variables, which lie on it; true, or it ends the
/// program. Without this, OpenMP's threads overflow where these variables are larger than the default of 8 MB: glibc
/// then leaves 12 KB.
inline bool enlarge_stacks() {
  pthread_attr_t attributes;
  bool set = pthread_getattr_default_np(&attributes) == 0;
  if (set) {
    set = pthread_attr_setstacksize(&attributes, thread_local_bytes() + (std::size_t{8} << 20)) == 0 &&
          pthread_setattr_default_np(&attributes) == 0;
    pthread_attr_destroy(&attributes);
  }
  if (!set) throw std::runtime_error{"emulation: threads get no stack for the kernels' shared memory"};
  return set;
}
inline bool const stacks_are_enlarged = enlarge_stacks();

/// One thread for each further processor.
class workers {
 public:
  /// Never destroyed: its threads wait in it when the program ends. A forked process has none, and runs work itself.
  static workers& get() {
    static auto* const all = new workers;
    return *all;
  }
  [[nodiscard]] static unsigned processors() {
    static unsigned const n = std::max(1u, std::thread::hardware_concurrency());
    return n;
  }

  /// Calls `work`, which throws nothing, here, and in up to `others` further threads that are free before it returns
  /// here; waits for all. Any thread may call this.
  void run(std::size_t others, std::function<void()> const& work) {
    task mine{&work};
    {
      std::lock_guard const lock{mutex_};
      waiting_.insert(waiting_.end(), others, &mine);
    }
    if (others != 0) begin_.notify_all();
    work();
    std::unique_lock lock{mutex_};
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), &mine), waiting_.end());
    end_.wait(lock, [&] { return mine.running == 0; });
  }

 private:
  struct task {
    std::function<void()> const* work;
    unsigned running = 0;
  };

  workers() {
    for (unsigned i = 1; i < processors(); ++i) std::thread{[this] { serve(); }}.detach();
  }
  void serve() {
    std::unique_lock lock{mutex_};
    for (;;) {
      begin_.wait(lock, [&] { return !waiting_.empty(); });
      task& t = *waiting_.front();
      waiting_.pop_front();
      ++t.running;
      lock.unlock();
      (*t.work)();
      lock.lock();
      if (--t.running == 0) end_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  std::deque<task*> waiting_;
};

}  // namespace emulated
