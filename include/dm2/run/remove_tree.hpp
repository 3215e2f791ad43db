/// @file
/// Removes a folder by plain system calls, as forked processes must.
#pragma once

#include <dm2/core/compiler.hpp>

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dm2::run::detail {

/// Removes a file or a folder with all that is in it; follows no link, and allocates nothing: readdir(3) would. Returns
/// whether it is gone. Folders nested deeper than 32 stay.
inline bool remove_tree(int parent, char const* name, int depth = 32) noexcept {
  if (::unlinkat(parent, name, 0) == 0 || errno == ENOENT) return true;
  int const folder = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return false;
  // As the kernel lays them out: inode and offset of 8 bytes each, the record's length, a byte of kind, the name.
  constexpr std::size_t length_at = 16, name_at = 19;
  alignas(std::uint64_t) char records[2048];
  bool removed = depth > 0;
  for (int round = 0; removed && round < 8; ++round) {  // removing may hide entries from a listing that goes on
    removed = false;
    long bytes = 0;
    ::lseek(folder, 0, SEEK_SET);
    while ((bytes = ::syscall(SYS_getdents64, folder, records, sizeof records)) > 0)
      for (long at = 0; at < bytes;) {
        std::uint16_t length = 0;
        std::memcpy(&length, records + at + length_at, sizeof length);
        char const* const entry = records + at + name_at;
        at += length;
        if (std::strcmp(entry, ".") == 0 || std::strcmp(entry, "..") == 0) continue;
        removed = remove_tree(folder, entry, depth - 1) || removed;
      }
  }
  ::close(folder);
  return ::unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

}  // namespace dm2::run::detail
