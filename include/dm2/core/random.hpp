/// @file
/// Random numbers as a function of their purpose.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace dm2 {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 random bits from a 128-bit
/// counter and a 64-bit key. No state, so that any thread, or a GPU, finds the same numbers in any order.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53u} * counter[0], b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {std::uint32_t(b >> 32) ^ counter[1] ^ key[0], std::uint32_t(b),
               std::uint32_t(a >> 32) ^ counter[3] ^ key[1], std::uint32_t(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// A sequence of random numbers, a function of the seed and of two numbers alone. The two name its purpose, such as the
/// epoch and the sample's index.
class random_stream {
 public:
  /// Begins the sequence that belongs to (seed, a, b); it has 2^34 different numbers of 32 bits.
  constexpr random_stream(std::uint64_t seed, std::uint32_t a, std::uint64_t b)
      : key_{std::uint32_t(seed), std::uint32_t(seed >> 32)},
        counter_{0, a, std::uint32_t(b), std::uint32_t(b >> 32)} {}

  /// 32 random bits.
  constexpr std::uint32_t bits() {
    if (next_ == 4) {
      values_ = philox(counter_, key_);
      ++counter_[0];
      next_ = 0;
    }
    return values_[next_++];
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  constexpr double uniform() {
    std::uint64_t const high = bits() >> 5, low = bits() >> 6;
    return double(high << 26 | low) * 0x1p-53;
  }
  /// Uniform in [lo, hi).
  constexpr double uniform(double lo, double hi) { return lo + (hi - lo) * uniform(); }
  /// True with that probability.
  constexpr bool chance(double probability) { return uniform() < probability; }

  /// Uniform in 0..n - 1, exactly: values that would favour some results are drawn again (Lemire 2019, arXiv
  /// 1805.10941).
  constexpr std::uint32_t below(std::uint32_t n) {
    std::uint64_t product = std::uint64_t{bits()} * n;
    if (std::uint32_t(product) < n) {
      std::uint32_t const threshold = (0u - n) % n;
      while (std::uint32_t(product) < threshold) product = std::uint64_t{bits()} * n;
    }
    return std::uint32_t(product >> 32);
  }

  /// Standard normal (Box and Muller), one of a pair at a time.
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    double const radius = std::sqrt(-2 * std::log(1 - uniform())), angle = 2 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> values_{};
  std::uint32_t next_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace dm2
