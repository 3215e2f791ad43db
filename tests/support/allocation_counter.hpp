/// @file
/// Counts what operator new hands out. Including this replaces the global operators in the test program.
///
/// The replacements are weak definitions, so that several sources of one program may include the file. What C libraries
/// take by malloc is not seen.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace dm2::test {

/// Totals since the program began; frees are not subtracted.
struct allocation_totals {
  static inline std::atomic<std::size_t> calls{0};
  static inline std::atomic<std::size_t> bytes{0};
  static inline std::atomic<std::size_t> most{~std::size_t{0}};  ///< that one call may ask for
};

/// While it lives, operator new has no memory for more than `most` bytes at once.
class allocation_limit {
 public:
  explicit allocation_limit(std::size_t most) { allocation_totals::most = most; }
  allocation_limit(allocation_limit const&) = delete;
  allocation_limit& operator=(allocation_limit const&) = delete;
  ~allocation_limit() { allocation_totals::most = ~std::size_t{0}; }
};

/// What operator new has handed out since this was made.
class allocation_counter {
 public:
  [[nodiscard]] std::size_t calls() const { return allocation_totals::calls - calls_; }
  [[nodiscard]] std::size_t bytes() const { return allocation_totals::bytes - bytes_; }

 private:
  std::size_t calls_ = allocation_totals::calls;
  std::size_t bytes_ = allocation_totals::bytes;
};

inline void* counted(void* p, std::size_t n) {
  if (p != nullptr && n > allocation_totals::most) std::free(std::exchange(p, nullptr));
  if (p == nullptr) throw std::bad_alloc{};
  allocation_totals::calls += 1;
  allocation_totals::bytes += n;
  return p;
}

}  // namespace dm2::test

[[gnu::weak]] void* operator new(std::size_t n) { return dm2::test::counted(std::malloc(n == 0 ? 1 : n), n); }
[[gnu::weak]] void* operator new(std::size_t n, std::align_val_t a) {
  auto const align = static_cast<std::size_t>(a);
  return dm2::test::counted(std::aligned_alloc(align, (n + align - 1) / align * align), n);
}
[[gnu::weak]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::weak]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::weak]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::weak]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
