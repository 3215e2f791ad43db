// A library to preload (LD_PRELOAD) that lets one call on a program's files fail, and writes down what they were.
//
//   DM2_FAULT_ROOT    calls on files below this folder count; the others pass
//   DM2_FAULT         CALL:N:HOW: the N-th CALL fails. HOW is an errno's name (EIO, ENOSPC, EINTR), `short` for half
//                     of the bytes, or `from-EIO` and so on: that one and all after it
//   DM2_FAULT_COUNTS  at the end of the process a file of "CALL COUNT" lines is written here
//   DM2_FAULT_LOG     every change is appended here, for scripts/reliability: what it was, and the bytes
//
// CALL is open, read, write, flush, fsync, rename, mmap, close, truncate, mkdir or unlink. stdio's own calls are not
// seen, so fwrite and fflush are write and flush.
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

enum call {
  call_open,
  call_read,
  call_write,
  call_flush,
  call_fsync,
  call_rename,
  call_mmap,
  call_close,
  call_truncate,
  call_mkdir,
  call_unlink,
  call_kinds
};
constexpr char const* names[]{"open", "read",  "write",    "flush", "fsync", "rename",
                              "mmap", "close", "truncate", "mkdir", "unlink"};

template <class F>
F next(char const* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}
#define NEXT(name) (next<decltype(&::name)>(#name))

struct settings {
  std::string root, counts;
  int log = -1;
  int kind = -1;
  long number = 0;
  int code = EIO;
  bool half = false, from = false;

  settings() {
    if (char const* const text = std::getenv("DM2_FAULT_ROOT")) root = text;
    if (char const* const text = std::getenv("DM2_FAULT_COUNTS")) counts = text;
    if (char const* const text = std::getenv("DM2_FAULT_LOG"))
      log = NEXT(open)(text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (char const* const text = std::getenv("DM2_FAULT")) parse(text);
  }
  void parse(std::string text) {
    std::size_t const one = text.find(':'), two = text.find(':', one + 1);
    if (two == text.npos) return;
    for (int k = 0; k < call_kinds; ++k)
      if (text.substr(0, one) == names[k]) kind = k;
    number = std::atol(text.c_str() + one + 1);
    std::string how = text.substr(two + 1);
    if (how.rfind("from-", 0) == 0) from = true, how.erase(0, 5);
    half = how == "short";
    code = how == "ENOSPC" ? ENOSPC : how == "EINTR" ? EINTR : EIO;
  }
};
settings& set() {
  static settings* const one = new settings;  // outlives the destructors of the program
  return *one;
}

std::atomic<long> counted[call_kinds];
constexpr int most_files = 4096;
std::atomic<bool> ours[most_files];
std::mutex log_mutex;

bool below(char const* path) {
  settings const& s = set();
  if (s.root.empty() || path == nullptr) return false;
  if (path[0] == '/') return std::strncmp(path, s.root.c_str(), s.root.size()) == 0;
  char here[PATH_MAX];
  if (::getcwd(here, sizeof here) == nullptr) return false;
  return std::strncmp((std::string{here} + "/").c_str(), s.root.c_str(), s.root.size()) == 0;
}
bool below(int fd) { return fd >= 0 && fd < most_files && ours[fd]; }

/// Counts a call; whether it is the one that fails.
bool fails(call kind) {
  settings const& s = set();
  long const n = ++counted[kind];
  return s.kind == kind && (n == s.number || (s.from && n > s.number));
}
/// The same for calls that are refused whole.
bool refused(call kind) {
  if (!fails(kind)) return false;
  errno = set().code;
  return true;
}

/// A record: the operation, two texts, an offset and bytes, each length in front.
void note(char what, std::string const& first, std::string const& second = "", std::uint64_t offset = 0,
          void const* bytes = nullptr, std::uint64_t count = 0) {
  settings const& s = set();
  if (s.log < 0) return;
  std::string record(1, what);
  auto const number = [&](std::uint64_t n) { record.append(reinterpret_cast<char const*>(&n), sizeof n); };
  number(first.size());
  record += first;
  number(second.size());
  record += second;
  number(offset);
  number(count);
  if (count != 0) record.append(static_cast<char const*>(bytes), count);
  std::lock_guard const lock{log_mutex};
  for (std::size_t done = 0; done < record.size();) {
    auto const n = NEXT(write)(s.log, record.data() + done, record.size() - done);
    if (n <= 0) return;
    done += std::size_t(n);
  }
}
std::string path_of(int fd) {
  char path[PATH_MAX];
  auto const n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return n > 0 ? std::string(path, std::size_t(n)) : std::string{};
}
std::string absolute(char const* path) {
  if (path[0] == '/') return path;
  char here[PATH_MAX];
  return std::string{::getcwd(here, sizeof here)} + "/" + path;
}

int opened(int fd, char const* path, int flags) {
  if (fd < 0 || fd >= most_files) return fd;
  ours[fd] = below(path);
  if (ours[fd] && (flags & O_CREAT) != 0) note('o', absolute(path));
  return fd;
}

struct at_end {
  ~at_end() {
    settings const& s = set();
    if (s.counts.empty()) return;
    std::string text;
    for (int k = 0; k < call_kinds; ++k) text += std::string{names[k]} + " " + std::to_string(counted[k]) + "\n";
    int const fd = NEXT(open)(s.counts.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd >= 0 && NEXT(write)(fd, text.data(), text.size()) < 0) std::abort();
  }
} end_of_process;

}  // namespace

extern "C" {

int open(char const* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t const mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode_t(va_arg(rest, int)) : 0;
  va_end(rest);
  if (below(path) && refused(call_open)) return -1;
  return opened(NEXT(open)(path, flags, mode), path, flags);
}
int open64(char const* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t const mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode_t(va_arg(rest, int)) : 0;
  va_end(rest);
  return open(path, flags, mode);
}
FILE* fopen(char const* path, char const* mode) {
  if (below(path) && refused(call_open)) return nullptr;
  FILE* const file = NEXT(fopen)(path, mode);
  if (file != nullptr) opened(::fileno(file), path, std::strchr(mode, 'r') != nullptr ? 0 : O_CREAT);
  return file;
}
FILE* fopen64(char const* path, char const* mode) { return fopen(path, mode); }
int close(int fd) {
  bool const mine = below(fd);
  if (mine) ours[fd] = false;
  int const result = NEXT(close)(fd);  // the number is free whatever close says
  if (mine && refused(call_close)) return -1;
  return result;
}
ssize_t read(int fd, void* to, size_t count) {
  if (below(fd) && fails(call_read)) {
    if (set().half) return NEXT(read)(fd, to, (count + 1) / 2);
    errno = set().code;
    return -1;
  }
  return NEXT(read)(fd, to, count);
}
ssize_t write(int fd, void const* from, size_t count) {
  if (!below(fd)) return NEXT(write)(fd, from, count);
  if (fails(call_write)) {
    if (!set().half) {
      errno = set().code;
      return -1;
    }
    count = (count + 1) / 2;
  }
  auto const at = ::lseek(fd, 0, SEEK_CUR);
  ssize_t const done = NEXT(write)(fd, from, count);
  if (done > 0) note('w', path_of(fd), "", std::uint64_t(at < 0 ? 0 : at), from, std::uint64_t(done));
  return done;
}
ssize_t writev(int fd, iovec const* parts, int count) {
  if (below(fd) && refused(call_write)) return -1;
  return NEXT(writev)(fd, parts, count);
}
size_t fwrite(void const* from, size_t size, size_t count, FILE* file) {
  if (below(::fileno(file)) && fails(call_write)) {
    if (set().half) return NEXT(fwrite)(from, size, count / 2, file);
    errno = set().code;
    return 0;
  }
  return NEXT(fwrite)(from, size, count, file);
}
int fflush(FILE* file) {
  if (file != nullptr && below(::fileno(file)) && refused(call_flush)) return EOF;
  return NEXT(fflush)(file);
}
int fsync(int fd) {
  if (below(fd) && refused(call_fsync)) return -1;
  int const result = NEXT(fsync)(fd);
  if (below(fd) && result == 0) note('s', path_of(fd));
  return result;
}
int rename(char const* from, char const* to) {
  if (below(to) && refused(call_rename)) return -1;
  std::string const source = absolute(from);
  int const result = NEXT(rename)(from, to);
  if (result == 0 && below(to)) note('r', source, absolute(to));
  return result;
}
void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (below(fd) && refused(call_mmap)) return MAP_FAILED;
  return NEXT(mmap)(at, size, protection, flags, fd, offset);
}
int ftruncate(int fd, off_t size) noexcept {
  if (below(fd) && refused(call_truncate)) return -1;
  return NEXT(ftruncate)(fd, size);
}
int truncate(char const* path, off_t size) noexcept {
  if (below(path) && refused(call_truncate)) return -1;
  return NEXT(truncate)(path, size);
}
int mkdir(char const* path, mode_t mode) noexcept {
  if (below(path) && refused(call_mkdir)) return -1;
  int const result = NEXT(mkdir)(path, mode);
  if (result == 0 && below(path)) note('d', absolute(path));
  return result;
}
int unlink(char const* path) noexcept {
  if (below(path) && refused(call_unlink)) return -1;
  int const result = NEXT(unlink)(path);
  if (result == 0 && below(path)) note('u', absolute(path));
  return result;
}
int remove(char const* path) noexcept {
  if (below(path) && refused(call_unlink)) return -1;
  int const result = NEXT(remove)(path);
  if (result == 0 && below(path)) note('u', absolute(path));
  return result;
}

}  // extern "C"
