/// @file
/// Files that appear whole or not at all.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/synced_folder.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#else
#include <fstream>
#endif

namespace dm2 {

/// Writes a file under a temporary name, and renames it over the target in commit(). The bytes have reached the disk by
/// then. Until then, and after any failure, the target stays as it was, and the destructor removes the temporary file,
/// which is in the target's folder.
///
/// The mode of a file that is replaced is kept. A target that is a symbolic link is followed, and its file replaced, or
/// made where the link leads to none. A target that exists and is not a regular file (a folder, a device) is refused.
///
/// Throws file_error (naming the target) from every member where the system refuses.
class atomic_file {
 public:
  /// Creates the temporary file, empty, beside the target; the target is not touched yet.
  explicit atomic_file(std::filesystem::path target) : target_{std::move(target)} {
    std::error_code none;
    follow_links();
    if (std::filesystem::exists(target_, none) && !std::filesystem::is_regular_file(target_, none))
      throw file_error{target_, "exists and is not a regular file: not written"};
    temporary_ = target_;
    temporary_.replace_filename("." + target_.filename().string() + "." + unique_suffix() + ".tmp");
    open();
  }
  atomic_file(atomic_file const&) = delete;
  atomic_file& operator=(atomic_file const&) = delete;
  ~atomic_file() {
    close();
    std::error_code ignored;
    if (!committed_) std::filesystem::remove(temporary_, ignored);
  }

  /// The final name, with links followed.
  [[nodiscard]] std::filesystem::path const& target() const noexcept { return target_; }

#if defined(__unix__) || defined(__APPLE__)
  /// Appends `bytes`.
  void write(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      ::ssize_t const done = ::write(fd_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) fail("cannot be written", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  /// Syncs the bytes, renames the file to its final name and syncs the folder. Call once, last. Where the folder cannot
  /// be synced, the new file stands under its name, and may be gone after a loss of power.
  void commit() {
    while (::fsync(fd_) != 0)
      if (errno != EINTR) fail("cannot be synced", errno);
    int const fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 && errno != EINTR) fail("cannot be closed", errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot be renamed into place", errno);
    committed_ = true;
    detail::sync_folder(target_.parent_path(), target_);
  }

 private:
  void open() {
    struct ::stat replaced {};
    bool const there = ::stat(target_.c_str(), &replaced) == 0;
    ::mode_t const mode = there ? replaced.st_mode & 07777 : 0666;
    do fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode & 0777);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) {
      int const problem = errno;
      committed_ = true;  // nothing of ours to remove
      fail("cannot be created", problem);
    }
    if (there) ::fchmod(fd_, mode);  // what the umask took; a file system without modes keeps its own
  }
  void close() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  [[noreturn]] void fail(char const* what, int code) const {
    throw file_error{target_, std::string{what} + ": " + std::generic_category().message(code)};
  }
  int fd_ = -1;
#else
  /// Appends `bytes`.
  void write(std::span<std::byte const> bytes) {
    out_.write(reinterpret_cast<char const*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!out_) throw file_error{target_, "cannot be written"};
  }
  /// Closes the file and renames it to its final name; there is no portable way to sync it. Call once, last.
  void commit() {
    out_.close();
    if (!out_) throw file_error{target_, "cannot be closed"};
    std::error_code problem;
    std::filesystem::rename(temporary_, target_, problem);
    if (problem) throw file_error{target_, "cannot be renamed into place: " + problem.message()};
    committed_ = true;
  }

 private:
  void open() {
    out_.open(temporary_, std::ios::binary | std::ios::trunc);
    if (!out_) throw file_error{target_, "cannot be created"};
  }
  void close() noexcept {
    if (out_.is_open()) out_.close();
  }
  std::ofstream out_;
#endif

  /// target_ becomes what its links lead to, whether that is there or not.
  void follow_links() {
    std::error_code problem;
    for (int links = 0; std::filesystem::is_symlink(target_, problem); ++links) {
      auto const to = std::filesystem::read_symlink(target_, problem);
      if (problem || links == 40) throw file_error{target_, "is a link that cannot be followed: not written"};
      target_ = to.is_absolute() ? to : target_.parent_path() / to;
    }
  }

  /// Differs between threads, programs and machines that write into one shared folder.
  static std::string unique_suffix() {
    static std::atomic<std::uint32_t> count{0};
    std::random_device source;
    return std::to_string(source()) + "-" + std::to_string(count.fetch_add(1));
  }

  std::filesystem::path target_, temporary_;
  bool committed_ = false;
};

}  // namespace dm2
