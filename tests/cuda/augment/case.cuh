/// @file
/// Raw pictures for the augmenter's tests, and what it makes of them.
#pragma once

#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/training_transform.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace dm2::test {

/// Noise, whose levels keep to a part of the range now and then, so that stretching them does something.
inline picture random_picture(int height, int width, std::mt19937& random) {
  picture p{height, width};
  int const low = int(random() % 100), span = random() % 3 == 0 ? 256 - low : 1 + int(random() % 120);
  for (std::uint8_t& v : p.pixels) v = std::uint8_t(low + int(random() % unsigned(span)));
  return p;
}

/// Whether two lists hold the same bytes; NaN counts as what it is.
template <class T>
std::size_t different(std::vector<T> const& a, std::vector<T> const& b) {
  REQUIRE(a.size() == b.size());
  std::size_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += std::size_t(std::memcmp(&a[i], &b[i], sizeof(T)) != 0);
  return n;
}

/// An augmenter with its own stream, whose results come back to the host.
class finished_on_device {
 public:
  template <class T>
  std::vector<T> operator()(raw_pictures const& raw) {
    std::size_t const n = raw.tasks.size() * raw.finished_bytes();
    cuda::device_memory out{n * sizeof(T)};
    cuda::check(cudaMemset(out.data(), 0xff, out.size()), "poison");
    cuda::check(cudaDeviceSynchronize(), "poison");
    augment_.enqueue(raw, reinterpret_cast<T*>(out.data()), stream_.get());
    augment_.wait_until_copied();
    if (raw.used > 0) std::memset(raw.memory.get(), 0xff, raw.used);  // as the loader may, from here on
    stream_.synchronize();
    std::vector<T> host(n);
    cuda::check(cudaMemcpy(host.data(), out.data(), n * sizeof(T), cudaMemcpyDeviceToHost), "read");
    return host;
  }
  std::vector<float> floats(raw_pictures const& raw) { return (*this).operator()<float>(raw); }
  std::vector<std::uint8_t> bytes(raw_pictures const& raw) { return (*this).operator()<std::uint8_t>(raw); }

 private:
  cuda::augmenter augment_;
  cuda::stream stream_;
};

/// A batch of raw pictures of that size after so many operations.
inline raw_pictures make_raw(int count, image_extent size, int steps) {
  raw_pictures raw;
  raw.prepare(count, size, steps, cuda::pinned_resource::get());
  return raw;
}

}  // namespace dm2::test
