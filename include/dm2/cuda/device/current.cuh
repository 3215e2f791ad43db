/// @file
/// Makes a device the calling thread's current one for a while.
#pragma once

#include <dm2/cuda/check.cuh>

namespace dm2::cuda {

/// While it lives, `device` is the calling thread's current device; then the one before is again. A new thread's is 0,
/// and work in a stream of another device than the current one fails.
class device_guard {
 public:
  /// Throws error where the device cannot be asked or changed.
  explicit device_guard(int device) : before_{device} {
    check(cudaGetDevice(&before_), "device: current");
    if (before_ != device) check(cudaSetDevice(device), "device: change");
    changed_ = before_ != device;
  }
  device_guard(device_guard const&) = delete;
  device_guard& operator=(device_guard const&) = delete;
  /// Gives back the one before.
  ~device_guard() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_;
  bool changed_ = false;
};

}  // namespace dm2::cuda
