/// @file
/// Where the time of the threads that load pictures goes.
#pragma once

#include <dm2/core/compiler.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace dm2 {

/// Seconds, added up over threads.
struct loading_times {
  double reading = 0;       ///< opening and reading pictures and label maps
  double decoding = 0;      ///< from their bytes to pixels
  double transforming = 0;  ///< what else the host does to them: draws, operations, resizing

  /// Seconds of all.
  [[nodiscard]] double sum() const noexcept { return reading + decoding + transforming; }
  /// What has come since an earlier time.
  [[nodiscard]] friend loading_times operator-(loading_times const& now, loading_times const& before) noexcept {
    return {now.reading - before.reading, now.decoding - before.decoding, now.transforming - before.transforming};
  }
  /// Both together.
  loading_times& operator+=(loading_times const& o) noexcept {
    reading += o.reading;
    decoding += o.decoding;
    transforming += o.transforming;
    return *this;
  }
};

namespace detail {

/// loading_times that several threads add to: some hundred nanoseconds a picture.
class loading_clock {
 public:
  using clock = std::chrono::steady_clock;  ///< what the seconds are of

  /// A picture that was asked for at `begin`, read at `read` and done now, `decoding` seconds of it decoding.
  void add(clock::time_point begin, clock::time_point read, double decoding) noexcept {
    auto const nanoseconds = [](clock::duration d) { return std::chrono::nanoseconds{d}.count(); };
    auto const decoded = static_cast<std::int64_t>(1e9 * decoding);
    reading_.fetch_add(nanoseconds(read - begin), std::memory_order_relaxed);
    decoding_.fetch_add(decoded, std::memory_order_relaxed);
    transforming_.fetch_add(nanoseconds(clock::now() - read) - decoded, std::memory_order_relaxed);
  }
  /// So far.
  [[nodiscard]] loading_times get() const noexcept {
    auto const seconds = [](std::atomic<std::int64_t> const& n) { return 1e-9 * double(n.load()); };
    return {seconds(reading_), seconds(decoding_), seconds(transforming_)};
  }

 private:
  std::atomic<std::int64_t> reading_{0}, decoding_{0}, transforming_{0};
};

}  // namespace detail
}  // namespace dm2
