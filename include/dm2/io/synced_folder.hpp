/// @file
/// Folders whose entries outlast a loss of power.
#pragma once

#include <dm2/core/error.hpp>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace dm2::detail {

/// Waits until the folder's entries are on the disk. Does nothing where the system has no such call, where the file
/// system says that it syncs no folders, and for a folder that may be entered but not read. Throws file_error naming
/// `about` where the disk refuses.
inline void sync_folder([[maybe_unused]] std::filesystem::path const& folder,
                        [[maybe_unused]] std::filesystem::path const& about) {
#if defined(__unix__) || defined(__APPLE__)
  int fd = -1;
  do fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  while (fd < 0 && errno == EINTR);
  if (fd < 0 && errno == EACCES) return;
  auto const refuse = [&](char const* what, int code) {
    throw file_error{about, "its folder cannot be " + std::string{what} + ": " + std::generic_category().message(code)};
  };
  if (fd < 0) refuse("opened to be synced", errno);
  int code = 0;
  while ((code = ::fsync(fd) == 0 ? 0 : errno) == EINTR) {
  }
  ::close(fd);
  if (code != 0 && code != EINVAL && code != ENOTSUP) refuse("synced", code);
#endif
}

/// Makes a folder and those it is in, and syncs each that gets a new entry. Throws file_error naming `folder`.
inline void make_synced_folders(std::filesystem::path const& folder) {
  std::error_code problem;
  std::filesystem::path outermost = folder;  // of those that are missing
  while (outermost.has_parent_path() && outermost.parent_path() != outermost &&
         !std::filesystem::exists(outermost.parent_path(), problem))
    outermost = outermost.parent_path();
  bool const made = std::filesystem::create_directories(folder, problem);
  if (problem) throw file_error{folder, "cannot be made: " + problem.message()};
  if (!made) return;
  for (std::filesystem::path at = folder;; at = at.parent_path()) {
    sync_folder(at.parent_path(), folder);
    if (at == outermost || at.parent_path() == at) return;
  }
}

}  // namespace dm2::detail
