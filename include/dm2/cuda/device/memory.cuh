/// @file
/// Owned memory on the device, and pinned memory on the host.
#pragma once

#include <dm2/cuda/check.cuh>

#include <cstddef>
#include <memory>
#include <type_traits>

namespace dm2::cuda {
namespace detail {
struct device_release {
  void operator()(std::byte* p) const { static_cast<void>(cudaFree(p)); }
};
struct pinned_release {
  void operator()(std::byte* p) const { static_cast<void>(cudaFreeHost(p)); }
};
}  // namespace detail

/// Zeroed memory on the current device.
class device_memory {
 public:
  device_memory() = default;
  /// Throws error where the device has not enough. Waits until the zeros are there.
  explicit device_memory(std::size_t bytes) : size_{bytes} {
    if (bytes == 0) return;
    void* p = nullptr;
    check(cudaMalloc(&p, bytes), "device memory");
    data_.reset(static_cast<std::byte*>(p));
    check(cudaMemset(p, 0, bytes), "device memory: zero");
    check(cudaDeviceSynchronize(), "device memory: zero");
  }

  /// The first byte, null where there is none.
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  /// Bytes.
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte[], detail::device_release> data_;
  std::size_t size_ = 0;
};

/// Host memory that the device copies from and to without a detour.
class pinned_memory {
 public:
  pinned_memory() = default;
  /// Throws error where the host has not enough.
  explicit pinned_memory(std::size_t bytes) : size_{bytes} {
    if (bytes == 0) return;
    void* p = nullptr;
    check(cudaMallocHost(&p, bytes), "pinned memory");
    data_.reset(static_cast<std::byte*>(p));
  }

  /// The first byte, null where there is none.
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  /// Bytes.
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte[], detail::pinned_release> data_;
  std::size_t size_ = 0;
};

}  // namespace dm2::cuda
