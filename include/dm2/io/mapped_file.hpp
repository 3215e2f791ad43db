/// @file
/// A whole file as read-only bytes: read where it is small, mapped where it is large.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <filesystem>
#include <limits>
#include <memory>
#include <new>
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
#endif

namespace dm2 {

/// A file's bytes: read whole up to a size, and mapped beyond it where the system can. Move-only; spans taken from it
/// live as long as it does (moving it does not move the bytes).
///
/// Mapping takes address space, not memory: pages come in when they are read. Another program that shortens the file
/// meanwhile makes reading it fault (SIGBUS), as with every mapped file; programs that write through a rename
/// (atomic_file) never do. Files that are read do not fault, whatever becomes of them.
///
/// Throws file_error where the file cannot be opened, is not a regular file, or cannot be mapped. An empty file gives
/// an empty span.
class mapped_file {
 public:
  /// Up to this size a file is read, unless the constructor is told otherwise: 32 MiB, which take 4 ms to copy.
  static constexpr std::size_t read_up_to = std::size_t{32} << 20;

  /// Takes the file as it is now, read where it has up to `most_read` bytes; `path` is kept for messages.
  explicit mapped_file(std::filesystem::path path, std::size_t most_read = read_up_to)
      : path_{std::move(path)}, most_read_{most_read} {
    open();
  }
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
    int fd = -1;
    do fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) fail("cannot be opened", errno);
    struct ::stat status {};
    int problem = ::fstat(fd, &status) == 0 ? 0 : errno;
    char const* what = "cannot be examined";
    bool const regular = problem == 0 && S_ISREG(status.st_mode);
    auto const size = regular ? static_cast<std::size_t>(status.st_size) : std::size_t{0};
    if (size > 0 && size <= most_read_) {
      problem = read(fd, size);
      what = "cannot be read";
    } else if (size > 0) {
      void* const at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
      if (at == MAP_FAILED) {
        problem = errno;
        what = "cannot be mapped";
      } else {
        bytes_ = {static_cast<std::byte const*>(at), size};
      }
    }
    ::close(fd);
    if (problem == shortened) throw file_error{path_, "became shorter while it was read"};
    if (problem != 0) fail(what, problem);
    if (!regular)
      throw file_error{path_, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file"};
  }
  static constexpr int shortened = -1;  // no errno

  /// Reads the file's first `size` bytes; 0, an errno, or `shortened`.
  int read(int fd, std::size_t size) {
    std::unique_ptr<std::byte[]> to{new (std::nothrow) std::byte[size]};
    if (!to) return ENOMEM;
    for (std::size_t done = 0; done < size;) {
      ::ssize_t const got = ::read(fd, to.get() + done, size - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      if (got == 0) return shortened;
      done += static_cast<std::size_t>(got);
    }
    owned_ = std::move(to);
    bytes_ = {owned_.get(), size};
    return 0;
  }
  void take(mapped_file& other) noexcept { owned_ = std::move(other.owned_); }
  void close() noexcept {
    if (!owned_ && !bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    owned_.reset();
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
#endif

  std::filesystem::path path_;
  std::size_t most_read_ = read_up_to;
  std::unique_ptr<std::byte[]> owned_;  // of a file that was read
  std::span<std::byte const> bytes_;
};

}  // namespace dm2
