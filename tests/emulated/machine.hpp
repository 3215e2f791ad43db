/// @file
/// One block of CUDA threads on one processor: each thread is a fiber, and yields where it waits for others.
///
/// Warps run in a random order, each as far as it can, lanes upwards or downwards: a missing barrier shows as a wrong
/// result. A block whose threads wait for what never comes, a warp instruction that not all lanes reach, and an address
/// outside the block's shared memory end the kernel with an exception.
#pragma once

#include <boost/context/fiber.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

namespace emulated {

/// A position or an extent.
struct index3 {
  unsigned x, y, z;
};

inline constexpr unsigned lanes = 32;

/// A copy that has been started and has not landed.
struct pending_copy {
  unsigned char* to;
  void const* from;  ///< null for zero bytes
  std::size_t bytes;
};

/// Stacks of ended fibers are used again. Their tops are 128 bytes apart modulo a page: at one place of their pages
/// those of 32 lanes would push each other out of the caches at each switch.
class stack_pool {
 public:
  static constexpr std::size_t bytes = std::size_t{256} << 10, apart = 128, spread = std::size_t{64} << 10;
  [[nodiscard]] boost::context::stack_context allocate() {
    owner& o = of_thread();
    if (o.unused.empty()) {
      auto* const block = static_cast<char*>(::operator new (bytes + spread, std::align_val_t{4096}));
      o.unused.push_back(block + bytes + o.blocks.size() * apart % spread);
      o.blocks.push_back(block);
    }
    boost::context::stack_context s;
    s.size = bytes;
    s.sp = o.unused.back();
    o.unused.pop_back();
    return s;
  }
  void deallocate(boost::context::stack_context& s) { of_thread().unused.push_back(static_cast<char*>(s.sp)); }

 private:
  struct owner {
    std::vector<char*> blocks, unused;  ///< of the unused ones, the tops
    ~owner() {
      for (char* s : blocks) ::operator delete (s, std::align_val_t{4096});
    }
  };
  static owner& of_thread() {
    thread_local owner o;
    return o;
  }
};

/// The threads of a block, and the shared memory that its launch gave it.
class machine {
 public:
  machine(unsigned threads, std::size_t shared_bytes)
      : threads_(threads), warps_(threads / lanes), shared_(shared_bytes + 2 * guard + alignment) {}

  /// Runs `body` in every thread; `enter` is called with a thread's number before it goes on.
  template <class Enter, class Body>
  void run(std::uint64_t seed, Enter const& enter, Body const& body);

  /// The one whose threads run on this processor now.
  static machine& current() { return *active(); }

  /// The first byte of the block's shared memory.
  [[nodiscard]] unsigned char* shared() {
    auto const address = reinterpret_cast<std::uintptr_t>(shared_.data()) + guard;
    return shared_.data() + guard + (alignment - address % alignment) % alignment;
  }
  [[nodiscard]] std::size_t shared_bytes() const { return shared_.size() - 2 * guard - alignment; }

  /// Waits for `count` threads that wait with the same name, 0 for all that have not ended.
  void wait(unsigned name, unsigned count) {
    auto& b = barriers_[name];
    b.needed = count;
    ++b.arrived;
    if (b.arrived == (count == 0 ? live_ : count))
      release(b);
    else
      b.waiting.push_back(running_), yield();
  }

  /// Counts as one that waits with this name, and goes on.
  void arrive(unsigned name, unsigned count) {
    auto& b = barriers_[name];
    b.needed = count;
    if (++b.arrived == count) release(b);
  }

  /// The running thread waits for a call of wake with the same key.
  void sleep(std::uint32_t key) { sleeping_[key].push_back(running_), yield(); }
  void wake(std::uint32_t key) {
    for (unsigned i : std::exchange(sleeping_[key], {})) threads_[i].state = status::ready;
  }

  /// Every lane of the running warp brings `mine`; the last one calls f with the addresses of all of them.
  template <class T, class F>
  void together(char const* name, T& mine, F const& f) {
    auto& w = warps_[running_ / lanes];
    if (w.arrived == 0)
      w.name = name;
    else if (w.name != name)
      throw std::logic_error{std::string{"lanes of a warp meet in "} + w.name + " and in " + name};
    w.operands[running_ % lanes] = &mine;
    if (++w.arrived < lanes) {
      threads_[running_].state = status::waiting;
      return yield();
    }
    w.arrived = 0;
    std::array<T*, lanes> all;
    for (unsigned i = 0; i < lanes; ++i) all[i] = static_cast<T*>(w.operands[i]);
    f(all);
    unsigned const first = running_ / lanes * lanes;
    for (unsigned i = 0; i < lanes; ++i) threads_[first + i].state = status::ready;
  }

  /// Copies of the running thread that have been started, by group; the last group is open.
  [[nodiscard]] std::deque<std::vector<pending_copy>>& copies() { return threads_[running_].copies; }

  /// The byte behind a 32-bit shared address; throws unless `bytes` of it are there and aligned.
  [[nodiscard]] unsigned char* at(std::uint32_t address, std::size_t bytes) {
    if (address % bytes != 0) throw std::logic_error{"a shared address that is not aligned"};
    for (auto const base : {reinterpret_cast<std::uintptr_t>(shared()), reinterpret_cast<std::uintptr_t>(&active())}) {
      auto* const p = reinterpret_cast<unsigned char*>((base & ~std::uintptr_t{0xffffffff}) | address);
      if (base != reinterpret_cast<std::uintptr_t>(shared()) ||
          (p >= shared() && p + bytes <= shared() + shared_bytes()))
        return p;
    }
    throw std::logic_error{"a shared address outside the block's memory"};
  }

 private:
  static constexpr std::size_t guard = 256, alignment = 1024;
  enum class status : unsigned char { ready, waiting, done };
  struct thread {
    boost::context::fiber self, scheduler;
    status state = status::ready;
    std::deque<std::vector<pending_copy>> copies;
  };
  struct warp {
    std::array<void*, lanes> operands;
    unsigned arrived = 0;
    char const* name = nullptr;
  };
  struct barrier {
    unsigned needed = 0, arrived = 0;
    std::vector<unsigned> waiting;
  };

  static machine*& active() {
    thread_local machine* m = nullptr;
    return m;
  }

  void yield() {
    auto& t = threads_[running_];
    t.state = status::waiting;
    t.scheduler = std::move(t.scheduler).resume();
  }
  void release(barrier& b) {
    for (unsigned i : b.waiting) threads_[i].state = status::ready;
    b.waiting.clear();
    b.arrived = 0;
  }
  void end_thread() {
    threads_[running_].state = status::done;
    --live_;
    for (auto& b : barriers_)
      if (b.needed == 0 && b.arrived != 0 && b.arrived == live_) release(b);
  }
  template <class Enter>
  bool run_warp(unsigned w, bool upwards, Enter const& enter);
  void check_guards() {
    unsigned char const *const first = shared() - guard, *const last = shared() + shared_bytes();
    for (std::size_t i = 0; i < guard; ++i)
      if (first[i] != 0xff || last[i] != 0xff) throw std::logic_error{"a write outside the block's shared memory"};
  }

  std::vector<thread> threads_;
  std::vector<warp> warps_;
  std::array<barrier, 16> barriers_;
  std::map<std::uint32_t, std::vector<unsigned>> sleeping_;
  std::vector<unsigned char> shared_;
  std::exception_ptr failure_;
  unsigned running_ = 0, live_ = 0;
};

/// Runs the ready lanes of warp w once; false where there is none.
template <class Enter>
bool machine::run_warp(unsigned w, bool upwards, Enter const& enter) {
  bool any = false;
  for (unsigned i = 0; i < lanes && !failure_; ++i) {
    running_ = w * lanes + (upwards ? i : lanes - 1 - i);
    auto& t = threads_[running_];
    if (t.state != status::ready) continue;
    any = true;
    enter(running_);
    t.self = std::move(t.self).resume();
  }
  return any;
}

template <class Enter, class Body>
void machine::run(std::uint64_t seed, Enter const& enter, Body const& body) {
  active() = this;
  failure_ = nullptr;
  live_ = unsigned(threads_.size());
  std::memset(shared_.data(), 0xff, shared_.size());
  for (auto& w : warps_) w.arrived = 0;
  for (auto& b : barriers_) b.arrived = 0, b.waiting.clear();
  sleeping_.clear();
  for (auto& t : threads_) {
    t.state = status::ready;
    t.copies.assign(1, {});
    t.self = boost::context::fiber{std::allocator_arg, stack_pool{}, [&](boost::context::fiber&& back) {
                                     t.scheduler = std::move(back);
                                     try {
                                       body();
                                     } catch (boost::context::detail::forced_unwind const&) {
                                       throw;
                                     } catch (...) {
                                       failure_ = std::current_exception();
                                     }
                                     end_thread();
                                     return std::move(t.scheduler);
                                   }};
  }
  std::minstd_rand random{std::uint32_t(seed * 2654435761u + 1)};
  unsigned const count = unsigned(warps_.size());
  while (live_ > 0 && !failure_) {
    unsigned const first = unsigned(random() % count);
    bool any = false;
    for (unsigned i = 0; i < count && !any; ++i)
      while (!failure_ && run_warp((first + i) % count, random() % 2 == 0, enter)) any = true;
    if (!any && !failure_) failure_ = std::make_exception_ptr(std::logic_error{"every thread of a block waits"});
  }
  for (auto& t : threads_) t.self = {};
  active() = nullptr;
  if (failure_) std::rethrow_exception(failure_);
  check_guards();
}

}  // namespace emulated
