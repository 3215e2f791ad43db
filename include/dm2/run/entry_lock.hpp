/// @file
/// One process at a time works on an entry of the cache.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/run/private_folder.hpp>

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <thread>
#include <utility>

namespace dm2::run {

/// The caller's stop flag was set while a model was compiled or waited for.
struct compile_stopped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A lock by flock on a file, which is removed with the lock. Programs that the process starts do not inherit it; a
/// forked process does, and holds it until that ends or this object does, whichever is later for a killed process and
/// this object's end otherwise.
class entry_lock {
 public:
  explicit entry_lock(std::filesystem::path path) : path_{std::move(path)} {}
  entry_lock(entry_lock const&) = delete;
  entry_lock& operator=(entry_lock const&) = delete;
  ~entry_lock() {
    if (!file_) return;
    ::unlink(path_.c_str());  // while it is held: who has it open finds in try_take that it is not the path's any more
    ::flock(file_.get(), LOCK_UN);  // of forked processes too, which closing would not release
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

  /// Takes the lock unless another has it. Throws file_error where the file system has no locks.
  [[nodiscard]] bool try_take() {
    for (;;) {
      descriptor file = open_file(path_, O_RDWR | O_CREAT);
      if (!file) throw file_error{path_, "cannot be opened: " + system_message(errno)};
      while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return false;
        if (errno != EINTR)
          throw file_error{path_, "cannot be locked: " + system_message(errno) +
                                      "; name a folder on another file system by XDG_CACHE_HOME"};
      }
      struct ::stat mine {
      }, there{};
      bool const current = ::fstat(file.get(), &mine) == 0 && ::stat(path_.c_str(), &there) == 0 &&
                           mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
      if (!current) continue;  // removed between its opening and its locking
      file_ = std::move(file);
      return true;
    }
  }

  /// Takes the lock, and waits for it where another has it; calls waits() once before that. Throws compile_stopped.
  void take(std::function<void()> const& waits, std::atomic<bool> const* stop) {
    for (bool first = true; !try_take(); first = false) {
      if (first) waits();
      if (stop != nullptr && *stop) throw compile_stopped{"stopped while another process compiled"};
      std::this_thread::sleep_for(std::chrono::milliseconds{20});
    }
  }

 private:
  std::filesystem::path path_;
  descriptor file_;
};

}  // namespace detail
}  // namespace dm2::run
