/// @file
/// Device memory that grows as it is asked for.
#pragma once

#include <dm2/cuda/device/memory.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Device memory that grows as it is asked for.
class grown_memory {
 public:
  /// At least so many bytes; what was in it may be lost. Waits for the device where it grows.
  std::byte* reserve(std::size_t bytes) {
    if (bytes > memory_.size()) {
      memory_ = {};
      memory_ = device_memory{bytes + bytes / 4};
    }
    return memory_.data();
  }
  /// Bytes that there are.
  [[nodiscard]] std::size_t size() const { return memory_.size(); }

 private:
  device_memory memory_;
};

}  // namespace dm2::cuda::detail
