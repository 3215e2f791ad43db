/// @file
/// A whole file as read-only bytes, without copying it.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#else
#include <fstream>
#include <memory>
#endif

namespace dm2 {

/// A file's bytes, mapped where the system can and read whole elsewhere. Move-only; spans taken from it live as long
/// as it does (moving it does not move the bytes).
///
/// Mapping takes address space, not memory: pages come in when they are read. Another program that shortens the file
/// meanwhile makes reading it fault, as with every mapped file; programs that write through a rename (atomic_file)
/// never do.
///
/// Throws file_error where the file cannot be opened, is not a regular file, or cannot be mapped. An empty file gives
/// an empty span.
class mapped_file {
 public:
  /// Maps the file as it is now; `path` is kept for messages.
  explicit mapped_file(std::filesystem::path path) : path_{std::move(path)} { open(); }
  /// Takes over the bytes; `other` is left empty.
  mapped_file(mapped_file&& other) noexcept : path_{std::move(other.path_)}, bytes_{std::exchange(other.bytes_, {})} {
    take(other);
  }
  /// Gives up its own bytes and takes over those of `other`, which is left empty.
  mapped_file& operator=(mapped_file&& other) noexcept {
    if (this == &other) return *this;
    close();
    path_ = std::move(other.path_);
    bytes_ = std::exchange(other.bytes_, {});
    take(other);
    return *this;
  }
  mapped_file(mapped_file const&) = delete;
  mapped_file& operator=(mapped_file const&) = delete;
  ~mapped_file() { close(); }

  /// The whole content; valid as long as this, or the object it is moved into, holds the file.
  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return bytes_; }
  /// The file, as the constructor was given it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

 private:
#if defined(__unix__) || defined(__APPLE__)
  void open() {
    // O_NONBLOCK: opening a pipe without a writer would wait for ever, before its kind can be asked for
    int const fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) fail("cannot be opened", errno);
    struct ::stat status {};
    int problem = ::fstat(fd, &status) == 0 ? 0 : errno;
    char const* what = "cannot be examined";
    bool const regular = problem == 0 && S_ISREG(status.st_mode);
    if (regular && status.st_size > 0) {
      auto const size = static_cast<std::size_t>(status.st_size);
      void* const at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
      if (at == MAP_FAILED) {
        problem = errno;
        what = "cannot be mapped";
      } else {
        bytes_ = {static_cast<std::byte const*>(at), size};
      }
    }
    ::close(fd);
    if (problem != 0) fail(what, problem);
    if (!regular)
      throw file_error{path_, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file"};
  }
  void take(mapped_file&) noexcept {}
  void close() noexcept {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    bytes_ = {};
  }
  [[noreturn]] void fail(char const* what, int code) const {
    throw file_error{path_, std::string{what} + ": " + std::generic_category().message(code)};
  }
#else
  void open() {
    std::error_code problem;
    if (!std::filesystem::is_regular_file(path_, problem)) throw file_error{path_, "is not a regular file"};
    auto const size = std::filesystem::file_size(path_, problem);
    if (problem) throw file_error{path_, "cannot be examined: " + problem.message()};
    if (size > std::numeric_limits<std::size_t>::max() / 2) throw file_error{path_, "is too large for this machine"};
    owned_ = std::make_unique<std::byte[]>(static_cast<std::size_t>(size));
    std::ifstream in{path_, std::ios::binary};
    in.read(reinterpret_cast<char*>(owned_.get()), static_cast<std::streamsize>(size));
    if (!in) throw file_error{path_, "cannot be read"};
    bytes_ = {owned_.get(), static_cast<std::size_t>(size)};
  }
  void take(mapped_file& other) noexcept { owned_ = std::move(other.owned_); }
  void close() noexcept { bytes_ = {}; }
  std::unique_ptr<std::byte[]> owned_;
#endif

  std::filesystem::path path_;
  std::span<std::byte const> bytes_;
};

}  // namespace dm2
