/// @file
/// Planned memory: a bump allocator that first measures and then places.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

namespace dm2 {

/// Hands out consecutive, 64-byte aligned pieces of one piece of memory. Without memory it only counts, so that the
/// code which places a set of buffers also measures it:
///
///     arena ruler;                        plan p{ruler, batch};   // p's pointers are null, ruler.used() is the size
///     arena real{memory, ruler.used()};   plan q{real, batch};
class arena {
 public:
  /// Bytes; every piece starts at a multiple and takes a whole number of them.
  static constexpr std::size_t alignment = 64;

  /// Measures only.
  arena() = default;
  /// Places into [memory, memory + bytes); memory is 64-byte aligned.
  arena(std::byte* memory, std::size_t bytes) : memory_{memory}, capacity_{bytes} {}

  /// n elements, uninitialised. Throws std::length_error past the end, which means that the plan was measured for less.
  template <class T>
  T* take(std::size_t n) {
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max() / 2;  // of one piece, and of their sum
    if (n > most / sizeof(T)) throw std::length_error{"dm2::arena: size overflows"};
    std::size_t const bytes = (n * sizeof(T) + alignment - 1) / alignment * alignment;
    if (bytes > most - used_) throw std::length_error{"dm2::arena: size overflows"};
    if (memory_ != nullptr && bytes > capacity_ - used_)
      throw std::length_error{"dm2::arena: planned for less than is taken"};
    T* const piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += bytes;
    if (used_ > peak_) peak_ = used_;
    return piece;
  }

  /// Bytes handed out now, alignment included.
  [[nodiscard]] std::size_t used() const { return used_; }
  /// The largest used() so far: what a plan needs.
  [[nodiscard]] std::size_t peak() const { return peak_; }
  /// Bytes that there are; 0 where it only measures.
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

  /// Gives back everything that was taken since used() was `mark`.
  void rewind(std::size_t mark) { used_ = mark; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0, peak_ = 0;
};

/// Gives back at the end of a scope what was taken inside it.
class arena_scope {
 public:
  /// Remembers a.used(); a outlives the scope.
  explicit arena_scope(arena& a) : arena_{a}, mark_{a.used()} {}
  ~arena_scope() { arena_.rewind(mark_); }
  arena_scope(arena_scope const&) = delete;
  arena_scope& operator=(arena_scope const&) = delete;

 private:
  arena& arena_;
  std::size_t mark_;
};

/// Owned, 64-byte aligned, zeroed host memory.
class host_memory {
 public:
  host_memory() = default;
  /// Throws std::bad_alloc.
  explicit host_memory(std::size_t bytes)
      : data_{bytes == 0 ? nullptr
                         : static_cast<std::byte*>(::operator new (bytes, std::align_val_t{arena::alignment}))},
        size_{bytes} {
    std::uninitialized_fill_n(data_.get(), bytes, std::byte{0});
  }
  /// The other one has nothing then.
  host_memory(host_memory&& other) noexcept : data_{std::move(other.data_)}, size_{std::exchange(other.size_, 0)} {}
  /// @copydoc host_memory(host_memory&&)
  host_memory& operator=(host_memory&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  /// The first byte, null where there is none.
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  /// Bytes.
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct release {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{arena::alignment}); }
  };
  std::unique_ptr<std::byte[], release> data_;
  std::size_t size_ = 0;
};

/// Bytes that `Plan{arena&, arguments...}` takes.
template <class Plan, class... A>
std::size_t planned_bytes(A const&... arguments) {
  arena ruler;
  Plan const plan{ruler, arguments...};
  static_cast<void>(plan);
  return ruler.peak();
}

}  // namespace dm2
