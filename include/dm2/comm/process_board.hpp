/// @file
/// A notice board of a machine's processes: who lives, and in which exchange each is.
///
/// A library that only moves bytes does not say who is missing where it waits. The processes of one machine can look.
#pragma once

#include <dm2/comm/waiting.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace dm2::detail {

/// Shared memory with a place for each process. Every process may write its own place at any time, and read all.
class process_board {
 public:
  /// Opens the board that lies in `file`, on this machine, or makes it; `file` is the same for all processes of a run,
  /// and another one for every run. Throws std::runtime_error where it cannot be made.
  process_board(std::filesystem::path file, int rank, int size)
      : file_{std::move(file)}, rank_{std::size_t(rank)}, size_{std::size_t(size)} {
    int const descriptor = ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    std::size_t const bytes = size_ * sizeof(place);
    void* memory = MAP_FAILED;
    if (descriptor >= 0 && ::ftruncate(descriptor, off_t(bytes)) == 0)
      memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    int const problem = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (memory == MAP_FAILED)
      throw std::runtime_error{file_.string() + ": cannot be shared between processes: " + std::strerror(problem)};
    places_ = static_cast<place*>(memory);
    own().exchanges = 0;
    beat();
  }
  process_board(process_board const&) = delete;
  process_board& operator=(process_board const&) = delete;
  ~process_board() {
    ::munmap(places_, size_ * sizeof(place));
    std::error_code ignored;
    std::filesystem::remove(file_, ignored);  // those that have it keep it
  }

  /// This process lives.
  void beat() { own().beat = now(); }
  /// This process is in its exchange number `number`, counted from 1, of `step`.
  void enter(std::uint64_t number, std::int64_t step, std::string_view what) {
    std::array<std::uint64_t, words> text{};
    std::memcpy(text.data(), what.data(), std::min(what.size(), sizeof text));
    for (std::size_t i = 0; i < words; ++i) own().what[i] = text[i];
    own().step = step;
    own().exchanges = number;
    beat();
  }

  /// "process 2 of 4 is not in the exchange 'gradients' of step 18, for 31.2 s; last heard: process 1 0.2 s ago, ...":
  /// those that are behind this process's latest exchange, and what they were in last.
  [[nodiscard]] std::string report(double seconds) const {
    std::vector<std::size_t> behind;
    for (std::size_t r = 0; r < size_; ++r)
      if (places_[r].exchanges < own().exchanges) behind.push_back(r);
    std::string text = behind.size() == 1 ? "process " : "processes ";
    for (std::size_t i = 0; i < behind.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(behind[i]);
    if (behind.empty()) text = "a process";
    text += " of " + std::to_string(size_) + " did not answer process " + std::to_string(rank_) + " within " +
            waiting::tenths(seconds) + " s " + waiting::place(what_of(own()).c_str(), own().step) + "; last heard:";
    char const* separator = " ";
    for (std::size_t r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      text += separator + ("process " + std::to_string(r)) + " " + heard(places_[r]);
      separator = ", ";
    }
    return text;
  }

 private:
  static constexpr std::size_t words = 4;
  struct place {
    std::atomic<std::int64_t> beat;        ///< nanoseconds of the machine's clock; 0 for never
    std::atomic<std::uint64_t> exchanges;  ///< that were entered
    std::atomic<std::int64_t> step;
    std::array<std::atomic<std::uint64_t>, words> what;
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "processes share them");

  static std::int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  static std::string what_of(place const& p) {
    std::array<std::uint64_t, words> text{};
    for (std::size_t i = 0; i < words; ++i) text[i] = p.what[i];
    std::array<char, sizeof text + 1> letters{};
    std::memcpy(letters.data(), text.data(), sizeof text);
    return letters.data();
  }
  static std::string heard(place const& p) {
    if (p.beat == 0) return "never";
    std::string const ago = waiting::tenths(double(now() - p.beat) * 1e-9) + " s ago";
    return p.exchanges == 0 ? ago : ago + " after '" + what_of(p) + "' of step " + std::to_string(p.step + 1);
  }
  [[nodiscard]] place& own() { return places_[rank_]; }
  [[nodiscard]] place const& own() const { return places_[rank_]; }

  std::filesystem::path file_;
  std::size_t rank_, size_;
  place* places_ = nullptr;
};

}  // namespace dm2::detail
