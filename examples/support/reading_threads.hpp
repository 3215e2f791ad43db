/// @file
/// Threads that work on lists of pictures, one after the other.
#pragma once

#include <dm2/data/worker_threads.hpp>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

namespace dm2::example {

/// Threads that last as long as this does. Those that find no work left in one list go on with the next one, so that
/// none waits for the others at a list's end. Its destructor waits for the items that threads are at, and drops the
/// rest. One thread at a time calls it.
class reading_threads {
 public:
  /// Items that are worked on, 0 to count - 1.
  struct list {
    std::size_t count = 0;
    std::function<void(std::size_t)> work;
    std::size_t taken = 0, done = 0;
  };

  /// `threads` of them; 0 for one a processor.
  explicit reading_threads(int threads) {
    for (int i = 0; i < worker_count(threads); ++i)
      threads_.emplace_back([this](std::stop_token const& stop) { run(stop); });
  }
  reading_threads(reading_threads const&) = delete;
  reading_threads& operator=(reading_threads const&) = delete;
  ~reading_threads() {
    for (std::jthread& t : threads_) t.request_stop();
  }

  /// Has work(i) called for each i below count, by whatever thread is free; it must not throw.
  [[nodiscard]] std::shared_ptr<list> start(std::size_t count, std::function<void(std::size_t)> work) {
    auto one = std::make_shared<list>(list{count, std::move(work)});
    {
      std::lock_guard const lock{mutex_};
      if (count > 0) waiting_.push_back(one);
    }
    more_.notify_all();
    return one;
  }
  /// Waits until all of it is done.
  void wait(list const& one) {
    std::unique_lock lock{mutex_};
    done_.wait(lock, [&] { return one.done == one.count; });
  }

 private:
  void run(std::stop_token const& stop) {
    std::unique_lock lock{mutex_};
    while (more_.wait(lock, stop, [&] { return !waiting_.empty(); }) && !stop.stop_requested()) {
      std::shared_ptr<list> const one = waiting_.front();
      std::size_t const i = one->taken++;
      if (one->taken == one->count) waiting_.pop_front();
      lock.unlock();
      one->work(i);
      lock.lock();
      if (++one->done == one->count) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any more_;
  std::condition_variable done_;
  std::deque<std::shared_ptr<list>> waiting_;  ///< lists of which items are left
  std::vector<std::jthread> threads_;          ///< last: they use the rest
};

}  // namespace dm2::example
