/// @file
/// What the fuzz targets share: files in memory, and what a reader may do.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace dm2::fuzz {

/// Ends the program, and so the fuzzing, with a reason.
[[noreturn]] inline void finding(std::string const& what) {
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

/// A file that is in memory alone.
class memory_file {
 public:
  /// Of these bytes, and of zeros behind them, which take no memory.
  explicit memory_file(std::span<std::byte const> bytes, std::uint64_t zeros = 0) : fd_{::memfd_create("fuzz", 0)} {
    if (fd_ < 0) finding("memfd_create failed");
    for (std::size_t done = 0; done < bytes.size();) {
      auto const count = ::write(fd_, bytes.data() + done, bytes.size() - done);
      if (count <= 0) finding("write failed");
      done += std::size_t(count);
    }
    if (zeros != 0 && ::ftruncate(fd_, ::off_t(bytes.size() + zeros)) != 0) finding("ftruncate failed");
  }
  memory_file(memory_file const&) = delete;
  memory_file& operator=(memory_file const&) = delete;
  ~memory_file() { ::close(fd_); }

  [[nodiscard]] std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// The path that readers of bytes are told.
inline std::filesystem::path const name = "file";

/// Runs a reader; false where it refuses the file as it should, by its name and a reason.
template <class Read>
bool reads(std::filesystem::path const& path, Read const& read) {
  try {
    read();
    return true;
  } catch (file_error const& problem) {
#ifdef DM2_FUZZ_PICTURES
    return false;  // libstdc++ keeps the message in memory that the memory sanitizer takes for not written
#endif
    std::string const text = problem.what(), front = path.string() + ": ";
    if (!text.starts_with(front) || text.size() == front.size()) finding("an error without the file's name: " + text);
    if (text.size() > 100'000) finding("an error of " + std::to_string(text.size()) + " bytes");
    return false;
  }
}

}  // namespace dm2::fuzz
