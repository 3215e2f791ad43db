/// @file
/// The threads behind the loader: batches are filled ahead of the one who takes them, and taken in order.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/fork.hpp>
#include <dm2/data/batch.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

namespace dm2::detail {

/// A sample that could not be read.
struct sample_failure {
  std::size_t sample;
  file_error problem;
};

/// A batch that is being filled, and its errors. Places are filled by different threads.
struct batch_slot {
  batch content;
  std::vector<std::vector<sample_failure>> failures;  ///< [size]
  std::vector<char> good;                             ///< [size] whether the place holds a sample
  int taken = 0, missing = 0;                         ///< places given to threads, and not yet done
};

/// A ring of slots that threads fill place by place, `slots` batches ahead of the taker. The mutex is held to hand out
/// a place and to take it back, under 1 us of the milliseconds that a place takes.
///
/// A forked process has a copy without threads, whose mutex may be held by one of them: start, stop and next throw
/// std::logic_error there, and `release` leaves it where it is.
class batch_queue {
 public:
  using fill_function = std::function<void(batch_slot&, int place)>;
  using prepare_function = std::function<void(batch_slot&)>;

  /// Deletes a queue, where its threads are.
  struct release {
    void operator()(batch_queue* queue) const {
      if (queue->forks_ == fork_count()) delete queue;
    }
  };

  /// `fill` fills one place of a slot; it is called by the threads.
  batch_queue(int slots, int threads, fill_function fill) : fill_{std::move(fill)}, slots_(std::size_t(slots)) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this](std::stop_token const& stop) { work(stop); });
  }
  batch_queue(batch_queue const&) = delete;
  batch_queue& operator=(batch_queue const&) = delete;
  ~batch_queue() {
    for (std::jthread& t : threads_) t.request_stop();  // all of them, before the first is waited for
  }

  /// Waits for the places that are being filled and drops everything.
  void stop() {
    require_threads();
    std::unique_lock lock{mutex_};
    filling_ = end_;
    done_.wait(lock, [&] { return busy_ == 0; });
    wanted_ = end_ = filling_ = 0;
    held_ = false;
    error_ = nullptr;
  }

  /// Begins with batch `first` of `end`. `prepare` sizes content for content.number, which is set. Only after stop().
  void start(std::size_t first, std::size_t end, prepare_function prepare) {
    require_threads();
    {
      std::lock_guard const lock{mutex_};
      prepare_ = std::move(prepare);
      wanted_ = filling_ = end_ = first;
      for (std::size_t b = first; b < end && b < first + slots_.size(); ++b) clear(b);
      end_ = end;
    }
    work_.notify_all();
  }

  /// Gives back the slot of the call before, and waits for the next one; null after the last. Throws the exceptions of
  /// fill and prepare, at every call until stop().
  batch_slot* next() {
    require_threads();
    std::unique_lock lock{mutex_};
    if (!error_) give_back();
    if (error_) std::rethrow_exception(error_);
    if (wanted_ == end_) return nullptr;
    batch_slot& slot = slot_of(wanted_);
    auto const begin = std::chrono::steady_clock::now();
    done_.wait(lock, [&] { return slot.missing == 0 || error_; });
    waited_ += std::chrono::steady_clock::now() - begin;
    if (error_) std::rethrow_exception(error_);
    held_ = true;
    return &slot;
  }

  /// Seconds that next() has waited.
  [[nodiscard]] double seconds_waiting() const { return std::chrono::duration<double>(waited_).count(); }

 private:
  void require_threads() const {
    if (forks_ != fork_count())
      throw std::logic_error{"loader: its threads are those of the process before a fork; make one after the fork"};
  }
  [[nodiscard]] batch_slot& slot_of(std::size_t b) { return slots_[b % slots_.size()]; }

  /// Makes b's slot ready to be filled.
  void clear(std::size_t b) {
    batch_slot& slot = slot_of(b);
    slot.content.number = b;
    prepare_(slot);
    std::size_t const n = std::size_t(slot.content.size);
    slot.failures.resize(n);
    for (auto& list : slot.failures) list.clear();
    slot.good.assign(n, 1);
    slot.taken = 0;
    slot.missing = slot.content.size;
  }

  void give_back() {
    if (!held_) return;
    held_ = false;
    std::size_t const b = wanted_++ + slots_.size();
    try {
      if (b < end_) clear(b);
    } catch (...) {
      error_ = std::current_exception();  // the slot is of no use, and has_work() offers none any more
    }
    work_.notify_all();
  }

  /// Whether a place waits for a thread.
  [[nodiscard]] bool has_work() const { return !error_ && filling_ < end_ && filling_ < wanted_ + slots_.size(); }

  void work(std::stop_token const& stop) {
    std::unique_lock lock{mutex_};
    while (work_.wait(lock, stop, [&] { return has_work(); }) && !stop.stop_requested()) {
      batch_slot& slot = slot_of(filling_);
      int const place = slot.taken++;
      if (slot.taken == slot.content.size) ++filling_;
      ++busy_;
      lock.unlock();
      std::exception_ptr problem;
      try {
        fill_(slot, place);
      } catch (...) {
        problem = std::current_exception();
      }
      lock.lock();
      --busy_;
      if (problem && !error_) error_ = problem;
      if (--slot.missing == 0 || error_ || busy_ == 0) done_.notify_all();
    }
  }

  unsigned const forks_ = fork_count();
  fill_function fill_;
  prepare_function prepare_;
  std::vector<batch_slot> slots_;
  std::mutex mutex_;
  std::condition_variable_any work_;  ///< a place waits for a thread
  std::condition_variable done_;      ///< a batch is full, a thread failed, or no thread is busy
  std::size_t wanted_ = 0;            ///< batch that next() returns, or that the taker has
  std::size_t filling_ = 0;           ///< batch whose places are handed out
  std::size_t end_ = 0;
  int busy_ = 0;
  bool held_ = false;  ///< whether the taker has slot wanted_
  std::exception_ptr error_;
  std::chrono::steady_clock::duration waited_{};
  std::vector<std::jthread> threads_;  ///< last: they use the rest
};

}  // namespace dm2::detail
