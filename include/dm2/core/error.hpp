/// @file
/// The exceptions that dm2 throws.
#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace dm2 {

/// A caller passed extents that disagree with a documented shape.
struct shape_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file could not be read or written, or does not hold what its format or the caller asks for.
/// what() begins with the path.
class file_error : public std::runtime_error {
 public:
  /// what() becomes "path: reason".
  file_error(std::filesystem::path path, std::string const& reason)
      : std::runtime_error{path.string() + ": " + reason}, path_{std::move(path)} {}

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

/// Sequences of `length` rows in `count` rows; throws shape_error naming the tensor unless they are whole.
inline int whole_sequences(char const* tensor, std::size_t count, int length) {
  if (length < 1 || count % std::size_t(length) != 0)
    throw shape_error{std::string{tensor} + ": got " + std::to_string(count) +
                      " rows, expected a multiple of the length " + std::to_string(length)};
  return int(count / std::size_t(length));
}

}  // namespace dm2
