/// @file
/// Random numbers for benchmarks, the same in every floating type.
#pragma once

#include <dm2/core/arena.hpp>

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

namespace dm2::bench {

/// n numbers, zero at first, aligned as a model's own memory is: a cache line split by every vector costs a third.
template <class T>
class buffer {
 public:
  explicit buffer(std::size_t n) : memory_{n * sizeof(T)}, size_{n} {}

  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<T const> span() const { return {data(), size_}; }

 private:
  host_memory memory_;
  std::size_t size_;
};

/// n numbers from N(0, 1). Each is a float, so that the same seed gives an operation and its oracle in double one
/// input.
template <class T>
buffer<T> normal(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 source{seed};
  std::normal_distribution<float> draw;
  buffer<T> out{n};
  for (std::size_t i = 0; i < n; ++i) out.data()[i] = T(draw(source));
  return out;
}

/// The same, from U(low, high).
template <class T>
buffer<T> uniform(std::size_t n, std::uint64_t seed, float low, float high) {
  std::mt19937_64 source{seed};
  std::uniform_real_distribution<float> draw{low, high};
  buffer<T> out{n};
  for (std::size_t i = 0; i < n; ++i) out.data()[i] = T(draw(source));
  return out;
}

}  // namespace dm2::bench
