/// @file
/// Random numbers as a function of their purpose.
#pragma once

#include <dm2/core/host_device.hpp>
#include <dm2/core/normal_pair.hpp>

#include <array>
#include <cstdint>

namespace dm2 {
namespace detail {

/// Four random words.
struct philox_words {
  std::uint32_t word[4];  ///< in the order in which they are drawn
};

/// philox, of plain words.
[[nodiscard]] DM2_HOST_DEVICE constexpr philox_words philox_block(philox_words counter, std::uint32_t key_low,
                                                                  std::uint32_t key_high) noexcept {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53u} * counter.word[0],
                        b = std::uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{std::uint32_t(b >> 32) ^ counter.word[1] ^ key_low, std::uint32_t(b),
                std::uint32_t(a >> 32) ^ counter.word[3] ^ key_high, std::uint32_t(a)}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

/// Uniform in [0, 1), a multiple of 2^-53, from two random words.
[[nodiscard]] DM2_HOST_DEVICE constexpr double uniform_of(std::uint32_t first, std::uint32_t second) noexcept {
  return double(std::uint64_t{first >> 5} << 26 | second >> 6) * 0x1p-53;
}

}  // namespace detail

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 random bits from a 128-bit
/// counter and a 64-bit key. No state, so that any thread, or a GPU, finds the same numbers in any order.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  auto const [word] = detail::philox_block({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {word[0], word[1], word[2], word[3]};
}

/// What is left of a random_stream's normal numbers, as plain numbers: any one of them can be found on its own, by any
/// thread, on the host or on a GPU.
struct normal_numbers {
  std::uint64_t seed = 0;   ///< of the stream
  std::uint32_t a = 0;      ///< the first of the numbers that name its purpose
  std::uint64_t b = 0;      ///< the second one
  std::uint64_t drawn = 0;  ///< words that have been drawn
  bool has_spare = false;   ///< whether number 0 is `spare`
  double spare = 0;         ///< the second number of a pair whose first one has been drawn

  /// Number i of those that normal() would draw from here on.
  [[nodiscard]] DM2_HOST_DEVICE double operator[](std::uint64_t i) const noexcept {
    if (has_spare) {
      if (i == 0) return spare;
      --i;
    }
    std::uint64_t const at = drawn + i / 2 * 4;
    std::uint32_t words[4];
    detail::philox_words block{};
    for (int k = 0; k < 4; ++k) {
      std::uint64_t const place = at + std::uint64_t(k);
      if (k == 0 || place % 4 == 0)
        block = detail::philox_block({{std::uint32_t(place / 4), a, std::uint32_t(b), std::uint32_t(b >> 32)}},
                                     std::uint32_t(seed), std::uint32_t(seed >> 32));
      words[k] = block.word[place % 4];
    }
    detail::normal_pair const pair =
        detail::make_normal_pair(detail::uniform_of(words[0], words[1]), detail::uniform_of(words[2], words[3]));
    return i % 2 == 0 ? pair.first : pair.second;
  }
};

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
    std::uint32_t const first = bits();
    return detail::uniform_of(first, bits());
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
    double const u = uniform();
    auto const [first, second] = detail::make_normal_pair(u, uniform());
    spare_ = second;
    has_spare_ = true;
    return first;
  }
  /// The numbers that normal() would draw from here on.
  [[nodiscard]] constexpr normal_numbers normals() const {
    return {std::uint64_t{key_[1]} << 32 | key_[0],       counter_[1], std::uint64_t{counter_[3]} << 32 | counter_[2],
            std::uint64_t{counter_[0]} * 4 - (4 - next_), has_spare_,  spare_};
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
