/// @file
/// Files that grow while a run goes on.
#pragma once

#include <dm2/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace dm2 {

/// A file that is written at its end, record by record. A record is with the operating system when write returns: a
/// killed program loses none, a power cut may.
///
/// A link under the file's name is refused: what it leads to is not the run's to change.
///
/// Throws file_error from every member where the system refuses.
class append_file {
 public:
  /// How the file is opened.
  enum class mode {
    extend,  ///< its contents stay; a missing file is created
    create   ///< a file of that name must not exist
  };

  /// Opens `path`.
  append_file(std::filesystem::path path, mode how) : path_{std::move(path)} {
#if defined(__unix__) || defined(__APPLE__)
    int const flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (how == mode::create ? O_EXCL : 0);
    int fd = -1;
    do fd = ::open(path_.c_str(), flags, 0666);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == ELOOP) throw file_error{path_, "is a link: not written"};
    if (fd >= 0) out_.reset(::fdopen(fd, "ab"));
    if (fd >= 0 && !out_) ::close(fd);
#else
    out_.reset(std::fopen(path_.string().c_str(), how == mode::create ? "wbx" : "ab"));
#endif
    if (!out_) fail("cannot be opened for writing", errno);
  }

  /// The file, as the caller named it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

  /// Appends the bytes of one record.
  void write(std::span<std::byte const> record) {
    if (std::fwrite(record.data(), 1, record.size(), out_.get()) != record.size() || std::fflush(out_.get()) != 0)
      fail("cannot be written", errno);
  }
  /// @copydoc write(std::span<std::byte const>)
  void write(std::string_view record) { write(std::as_bytes(std::span{record})); }

 private:
  struct closer {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  [[noreturn]] void fail(char const* what, int code) const {
    throw file_error{path_, std::string{what} + ": " + std::generic_category().message(code)};
  }
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, closer> out_;
};

}  // namespace dm2
