/// @file
/// The context of every CPU operation: a floating type, a number of threads, scratch memory.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/fork.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace dm2::cpu {

/// Threads that OpenMP would use here; 1 without OpenMP.
inline int default_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// The CPU backend's context, the first argument of every operation in dm2::cpu. T is the type of every number.
///
/// The same input, machine and number of threads give the same bits: sums over samples are made in a fixed number of
/// parts and added in a fixed order. One context must not be used by two threads at a time. A context that was moved
/// from is as new. In a forked process, a thread that had computed with others before the fork computes alone, to the
/// same bits.
template <std::floating_point T = float>
class context {
 public:
  using scalar = T;   ///< the type of every number
  using element = T;  ///< the type of activations between operations
  /// The stem's activations that its backward reads.
  template <stem_shape S>
  using stem_saved = dm2::stem_saved<S, T>;
  /// Whether the loss takes the patches' logits as the mixed tokens left them: here they are mixed back first.
  static constexpr bool loss_takes_mixed = false;
  /// Whether a mixer's backward reads the factors of its norms: here it computes everything again.
  static constexpr bool keeps_mixer_factors = false;
  using buffer = host_memory;                   ///< owns memory of this backend
  static constexpr space memory = space::host;  ///< where views of this backend point

  /// 0 threads or less take OpenMP's default.
  explicit context(int threads = 0) : threads_{threads > 0 ? threads : default_threads()} {}
  /// The other one has no scratch then.
  context(context&& other) noexcept
      : threads_{other.threads_},
        each_{std::exchange(other.each_, 0)},
        memory_{std::move(other.memory_)},
        shared_{std::exchange(other.shared_, {})},
        scratch_{std::exchange(other.scratch_, {})} {}
  /// @copydoc context(context&&)
  context& operator=(context&& other) noexcept {
    threads_ = other.threads_;
    each_ = std::exchange(other.each_, 0);
    memory_ = std::move(other.memory_);
    shared_ = std::exchange(other.shared_, {});
    scratch_ = std::exchange(other.scratch_, {});
    return *this;
  }
  ~context() = default;

  /// The most threads that an operation uses.
  [[nodiscard]] int threads() const { return threads_; }
  /// Changes the number of threads; scratch for the new ones is made by the next operation.
  void set_threads(int threads) { threads_ = threads > 0 ? threads : default_threads(); }

  /// Grows the scratch memory to `shared` bytes for an operation and `each` bytes for each thread. An operation calls
  /// this first, and returns at once where the answer is false: then only its memory is asked for.
  [[nodiscard]] bool reserve(std::size_t shared, std::size_t each) {
    grow(shared, each);
    return !planning_;
  }

  /// Runs `operations` without computing anything, so that they find their scratch when they run in earnest and
  /// allocate nothing. Their operands may be null.
  template <class F>
  void plan(F const& operations) {
    struct guard {
      bool& flag;
      ~guard() { flag = false; }
    } const reset{planning_};
    planning_ = true;
    operations();
  }

  /// Scratch of the operation that runs now. Take inside an arena_scope.
  [[nodiscard]] arena& shared() { return shared_; }
  /// Bytes of scratch held.
  [[nodiscard]] std::size_t scratch_bytes() const { return memory_.size(); }

  /// Calls f(i, scratch) for i in [0, n), spread over the threads; scratch is the calling thread's arena, empty at each
  /// call. f must not throw: check sizes before.
  template <class F>
  void for_each(int n, F const& f) {
    if (planning_) return;
#ifdef _OPENMP
    if (threads_ > 1 && n > 1 && dm2::detail::may_form_team()) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
      for (int i = 0; i < n; ++i) run(i, std::size_t(omp_get_thread_num()), f);
      return;
    }
#endif
    for (int i = 0; i < n; ++i) run(i, 0, f);
  }

  /// Calls f(first, last) over [0, n) in one contiguous part a thread; parts start at multiples of `grain`.
  template <class F>
  void for_range(std::ptrdiff_t n, std::ptrdiff_t grain, F const& f) {
    std::ptrdiff_t const grains = (n + grain - 1) / grain;
    int const parts = int(std::min<std::ptrdiff_t>(threads_, grains));
    for_each(parts, [&](int i, arena&) {
      std::ptrdiff_t const first = grains * i / parts * grain, last = std::min(n, grains * (i + 1) / parts * grain);
      f(first, last);
    });
  }

 private:
  void grow(std::size_t shared, std::size_t each) {
    auto const round = [](std::size_t n) { return (n + arena::alignment - 1) / arena::alignment * arena::alignment; };
    std::size_t const count = std::size_t(threads_);
    if (shared <= shared_.capacity() && each <= each_ && count <= scratch_.size()) return;
    if (shared_.used() != 0) throw std::logic_error{"dm2::cpu::context: scratch grown while in use"};
    shared = round(std::max(shared, shared_.capacity()));
    each = round(std::max(each, each_));
    std::vector<arena>{}.swap(scratch_);  // what follows may throw: nothing may point into memory that is gone
    shared_ = {};
    each_ = 0;
    memory_ = {};
    memory_ = host_memory{shared + count * each};
    each_ = each;
    shared_ = arena{memory_.data(), shared};
    scratch_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) scratch_.emplace_back(memory_.data() + shared + i * each_, each_);
  }

  template <class F>
  void run(int i, std::size_t thread, F const& f) {
    if (thread >= scratch_.size()) {  // an operation that takes no scratch, and reserved none for this thread
      arena none{nullptr, 0};
      f(i, none);
      return;
    }
    arena_scope const scope{scratch_[thread]};
    f(i, scratch_[thread]);
  }

  int threads_;
  bool planning_ = false;
  std::size_t each_ = 0;
  host_memory memory_;
  arena shared_;
  std::vector<arena> scratch_;
};

}  // namespace dm2::cpu
