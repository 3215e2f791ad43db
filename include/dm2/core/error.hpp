/// @file
/// The exceptions that dm2 throws.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/core/utf8.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>

namespace dm2 {

/// A caller passed extents that disagree with a documented shape.
struct shape_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file could not be read or written, or its contents are not as its format or the caller demands. what() begins with
/// the path. What follows may quote names from the file: there controls are '?', and bytes that are not UTF-8 "\xE9".
class file_error : public std::runtime_error {
 public:
  /// what() becomes "path: reason".
  file_error(std::filesystem::path path, std::string const& reason)
      : std::runtime_error{path.string() + ": " + detail::printable(reason, true)}, path_{std::move(path)} {}

  /// The file, as the caller named it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// Throws shape_error naming the tensor and both sizes unless got == want.
inline void require_extent(char const* tensor, std::size_t got, std::size_t want) {
  if (got != want)
    throw shape_error{std::string{tensor} + ": got " + std::to_string(got) + ", expected " + std::to_string(want)};
}

/// How often `each` rows go into `count` rows; throws shape_error naming the tensor and both numbers unless that is a
/// whole number. `what` names the rows that belong together; `size`, where given, is how the message writes `each`.
inline int require_whole(char const* tensor, std::size_t count, char const* what, std::int64_t each,
                         std::string const& size = {}) {
  if (each < 1 || count % std::size_t(each) != 0)
    throw shape_error{std::string{tensor} + ": got " + std::to_string(count) + " rows, expected a multiple of the " +
                      what + " " + (size.empty() ? std::to_string(each) : size)};
  return int(count / std::size_t(each));
}

/// Sequences of `length` rows in `count` rows; throws shape_error naming the tensor unless they are whole.
inline int whole_sequences(char const* tensor, std::size_t count, int length) {
  return require_whole(tensor, count, "length", length);
}

/// Throws shape_error naming `what` and both numbers unless label is one of 0 .. classes - 1.
inline void require_class(char const* what, int label, std::size_t classes) {
  if (label >= 0 && std::size_t(label) < classes) return;
  std::string const range = classes == 0 ? "but there are none" : "expected 0.." + std::to_string(classes - 1);
  throw shape_error{std::string{what} + ": got class " + std::to_string(label) + ", " + range};
}

namespace detail {

template <class T>
[[noreturn]] void refuse_option(char const* what, T got, char const* expected) {
  std::ostringstream text;
  text << what << " is " << got << ", expected " << expected;
  throw std::invalid_argument{text.str()};
}

/// Throws std::logic_error for an object whose memory a move has taken.
inline void require_memory(bool there, char const* what) {
  if (!there) throw std::logic_error{std::string{what} + ": was moved from, and holds nothing any more"};
}

/// Throws std::invalid_argument naming the option and its value unless `ok`.
template <class T>
constexpr void require_option(bool ok, char const* what, T got, char const* expected) {
  if (!ok) refuse_option(what, got, expected);
}

}  // namespace detail
}  // namespace dm2
