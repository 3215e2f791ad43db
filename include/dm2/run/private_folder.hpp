/// @file
/// Folders that nobody but the user can change, and files in them.
#pragma once

#include <dm2/core/error.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace dm2::run::detail {

[[nodiscard]] inline std::string system_message(int code) { return std::generic_category().message(code); }

/// A file descriptor, closed with the object. -1: none.
class descriptor {
 public:
  explicit descriptor(int fd = -1) noexcept : fd_{fd} {}
  descriptor(descriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
  descriptor& operator=(descriptor&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  descriptor(descriptor const&) = delete;
  descriptor& operator=(descriptor const&) = delete;
  ~descriptor() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

/// Opens a file as open(2) does, following no link, inherited by no program. No descriptor, and errno, where it fails.
[[nodiscard]] inline descriptor open_file(std::filesystem::path const& path, int flags, ::mode_t mode = 0600) noexcept {
  int fd = -1;
  do fd = ::open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, mode);
  while (fd < 0 && errno == EINTR);
  return descriptor{fd};
}

/// Writes all bytes at the file's place. Throws file_error naming `path`.
inline void write_all(descriptor const& file, std::string_view bytes, std::filesystem::path const& path) {
  while (!bytes.empty()) {
    ::ssize_t const done = ::write(file.get(), bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw file_error{path, "cannot be written: " + system_message(errno)};
    bytes.remove_prefix(std::size_t(done));
  }
}

/// Reads bytes from `offset` on until `to` is full; whether the file had so many.
[[nodiscard]] inline bool read_all(descriptor const& file, std::span<char> to, std::size_t offset) noexcept {
  while (!to.empty()) {
    ::ssize_t const done = ::pread(file.get(), to.data(), to.size(), ::off_t(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    to = to.subspan(std::size_t(done));
    offset += std::size_t(done);
  }
  return true;
}

inline constexpr ::mode_t others_write = S_IWGRP | S_IWOTH;

[[nodiscard]] inline bool is_owner_trusted(::uid_t owner) noexcept { return owner == ::geteuid() || owner == 0; }

[[nodiscard]] inline std::string mode_text(::mode_t mode) {
  std::string out(4, '0');
  for (int i = 3; i >= 0; --i, mode >>= 3) out[std::size_t(i)] = char('0' + (mode & 7));
  return out;
}

/// What is wrong with a folder on the way to a private one, `last` or above it; empty where nothing is.
[[nodiscard]] inline std::string folder_danger(struct ::stat const& s, std::filesystem::path const& at, bool last) {
  if (!S_ISDIR(s.st_mode)) return "is no folder";
  bool const own = last ? s.st_uid == ::geteuid() : is_owner_trusted(s.st_uid);
  if (!own && at != "/")  // who has the root folder has everything; in a container that may be a user without a name
    return "belongs to user " + std::to_string(s.st_uid) + ", not to you (user " + std::to_string(::geteuid()) + ")";
  bool const sticky = !last && (s.st_mode & S_ISVTX) != 0;
  if ((s.st_mode & others_write) == 0 || sticky) return {};
  return std::string{"may be written by "} + ((s.st_mode & S_IWOTH) != 0 ? "everybody" : "its group") + " (mode " +
         mode_text(s.st_mode) + "): chmod go-w " + at.string();
}

[[noreturn]] inline void refuse_folder(std::filesystem::path const& folder, std::filesystem::path const& at,
                                       std::string const& why) {
  throw file_error{
      folder, "is not used for compiled models, which are executed: " + (at == folder ? "it " : at.string() + " ") +
                  why + "; or name a folder of your own by XDG_CACHE_HOME"};
}

/// The folder without links on the way, whether it is there or not; `folder` is absolute. Throws file_error where it, a
/// folder above it or a link on the way belongs to another user than this one or root, or a folder may be written by
/// its group or by everybody (above it, the sticky bit makes that all right).
[[nodiscard]] inline std::filesystem::path require_private(std::filesystem::path const& folder) {
  std::filesystem::path const plain = folder.has_filename() ? folder : folder.parent_path();
  std::deque<std::filesystem::path> ahead{plain.begin(), plain.end()};
  std::filesystem::path at;
  for (int links = 0; !ahead.empty();) {
    std::filesystem::path const part = ahead.front();
    ahead.pop_front();
    std::filesystem::path const next = part == ".." ? at.parent_path() : part.empty() || part == "." ? at : at / part;
    struct ::stat status {};
    if (::lstat(next.c_str(), &status) != 0) {
      if (errno != ENOENT) refuse_folder(folder, next, "cannot be examined: " + system_message(errno));
      at = next;  // what is missing here and below is made by make_private
      for (auto const& missing : ahead) at /= missing;
      return at;
    }
    if (S_ISLNK(status.st_mode)) {
      std::error_code problem;
      auto const to = std::filesystem::read_symlink(next, problem);
      if (problem || ++links > 40) refuse_folder(folder, next, "is a link that cannot be followed");
      if (!is_owner_trusted(status.st_uid))
        refuse_folder(folder, next, "is a link of user " + std::to_string(status.st_uid));
      ahead.insert(ahead.begin(), to.begin(), to.end());
      if (to.is_absolute()) at.clear();
      continue;
    }
    at = next;
    std::string const danger = folder_danger(status, at, ahead.empty());
    if (!danger.empty()) refuse_folder(folder, at, danger);
  }
  return at;
}

/// require_private, and makes the folder and those above it that are missing, for this user alone (mode 0700).
inline std::filesystem::path make_private(std::filesystem::path const& folder) {
  std::filesystem::path const real = require_private(folder);
  std::filesystem::path at;
  for (auto const& part : real) {
    at /= part;
    if (::mkdir(at.c_str(), 0700) == 0 || errno == EEXIST || errno == EISDIR) continue;
    if (int const code = errno; ::access(at.c_str(), F_OK) != 0)
      refuse_folder(folder, at, "cannot be made: " + system_message(code));
  }
  return require_private(folder);
}

}  // namespace dm2::run::detail
