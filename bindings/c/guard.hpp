/// @file
/// The boundary of the C interface: exceptions become statuses, arguments are checked.
#pragma once

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "dm2.h"

namespace dm2::c {

/// An error whose status is known.
class failure : public std::runtime_error {
 public:
  failure(dm2_status status, std::string const& text) : std::runtime_error{text}, status_{status} {}

  [[nodiscard]] dm2_status status() const noexcept { return status_; }

 private:
  dm2_status status_;
};

/// The status of the exception in flight, whose text becomes the thread's last error.
[[nodiscard]] int explain() noexcept;

/// Calls f(); no exception leaves.
template <class F>
[[nodiscard]] int guarded(F const& f) noexcept {
  try {
    f();
    return DM2_OK;
  } catch (...) {
    return explain();
  }
}

/// The thread's last error.
[[nodiscard]] char const* last_error() noexcept;

/// Throws failure for a null pointer.
inline void require_pointer(void const* pointer, char const* name) {
  if (pointer == nullptr) throw failure{DM2_ARGUMENT, std::string{name} + " is NULL"};
}

/// Throws failure for a value outside [least, most].
template <class T>
void require_range(char const* name, T value, T least, T most) {
  if (value >= least && value <= most) return;
  throw failure{DM2_ARGUMENT, std::string{name} + " is " + std::to_string(value) + ", expected " +
                                  std::to_string(least) + " to " + std::to_string(most)};
}

/// Throws failure unless a buffer has the numbers that a call needs.
inline void require_count(char const* name, std::size_t got, std::size_t want) {
  if (got != want)
    throw failure{DM2_SIZE,
                  std::string{name} + ": got " + std::to_string(got) + " numbers, expected " + std::to_string(want)};
}

/// Throws failure unless a structure of the caller's is there and begins with its size.
template <class T>
void require_struct(T const* from, char const* name) {
  require_pointer(from, name);
  std::size_t size = 0;  // read alone: of an older caller's structure there may be no more
  std::memcpy(&size, from, sizeof size);
  if (size != sizeof(T))
    throw failure{DM2_ARGUMENT, std::string{name} + ".size is " + std::to_string(size) + ", this library's is " +
                                    std::to_string(sizeof(T))};
}

/// Text of the caller's; empty for NULL.
[[nodiscard]] inline std::string text_of(char const* text) { return text == nullptr ? std::string{} : text; }

}  // namespace dm2::c
