/// @file
/// One writer a run folder.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/train/host_name.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace dm2 {

/// Another process writes into a folder. what() says which: its number, its machine, and since when.
struct folder_in_use : file_error {
  using file_error::file_error;
};

/// Holds a folder for one process, by flock on FOLDER/.lock, which says who holds it. The lock goes with the process,
/// however that ends; programs that it starts do not inherit it. The file is removed with the object.
///
/// Some network file systems have no such locks, and systems other than Unix none at all: held() is false there.
class run_lock {
 public:
  /// Takes the lock of a folder that exists. Throws folder_in_use where another process (or another run_lock of this
  /// one) has it, file_error where the file cannot be opened.
  explicit run_lock(std::filesystem::path const& folder) : path_{folder / ".lock"} {
#if defined(__unix__) || defined(__APPLE__)
    while (!take(folder)) {
    }
    if (fd_ >= 0) sign();
#endif
  }
  run_lock(run_lock const&) = delete;
  run_lock& operator=(run_lock const&) = delete;
  ~run_lock() {
#if defined(__unix__) || defined(__APPLE__)
    if (fd_ < 0) return;
    ::unlink(path_.c_str());  // while it is held: who opens it now finds in take() that it is not the folder's any more
    ::close(fd_);
#endif
  }

  /// Whether the lock keeps others out.
  [[nodiscard]] bool held() const noexcept { return fd_ >= 0; }

 private:
#if defined(__unix__) || defined(__APPLE__)
  /// One attempt; false where the file was removed between its opening and its locking.
  bool take(std::filesystem::path const& folder) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) throw file_error{path_, "cannot be opened: " + std::generic_category().message(errno)};
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      struct stat mine {
      }, there{};
      bool const current = ::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &there) == 0 &&
                           mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
      if (!current) drop();
      return current;
    }
    int const problem = errno;
    std::string const who = problem == EWOULDBLOCK ? holder() : std::string{};
    drop();
    if (problem == EINTR) return false;
    if (problem == EWOULDBLOCK) throw folder_in_use{folder, "another process writes into it: " + who};
    ::unlink(path_.c_str());
    return true;  // a file system without locks
  }
  void drop() noexcept {
    ::close(fd_);
    fd_ = -1;
  }
  /// The lock's text, written by the process that has it.
  [[nodiscard]] std::string holder() const {
    std::array<char, 400> text;
    ::ssize_t const size = ::pread(fd_, text.data(), text.size(), 0);
    std::string_view who{text.data(), size > 0 ? std::size_t(size) : 0};
    who = who.substr(0, who.find('\n'));
    return who.empty() ? "it has not said which" : std::string{who};
  }
  void sign() const {
    std::array<char, 32> since{};
    std::time_t const now = std::time(nullptr);
    std::tm utc{};
    ::gmtime_r(&now, &utc);
    std::strftime(since.data(), since.size(), "%Y-%m-%d %H:%M:%S UTC", &utc);
    std::string const text =
        "process " + std::to_string(::getpid()) + " on " + detail::host_name() + ", since " + since.data() + "\n";
    bool const written = ::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, text.data(), text.size(), 0) >= 0;
    (void)written;  // on a full disk the lock stands without a name
  }
#endif

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace dm2
