/// @file
/// The runtime's errors, and what it says of the device: an H100, or what DM2_EMULATED_DEVICE names.
#pragma once

#include "../faults/gpu_plan.hpp"

#include <cstdlib>
#include <cstring>
#include <optional>

inline constexpr int CUDART_VERSION = 0;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureInvalidated = 901
};
inline char const* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchOutOfResources:
      return "cudaErrorLaunchOutOfResources";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaError";
  }
}
inline char const* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : "refused by the emulation";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulated {

/// DM2_EMULATED_DEVICE: 80, 86, 89 or 90.
struct device {
  int major = 9, minor = 0, multiprocessors = 132, shared_block = 232448, shared_multiprocessor = 233472;
  device() {
    char const* const name = std::getenv("DM2_EMULATED_DEVICE");
    int const n = name == nullptr ? 90 : std::atoi(name);
    major = n / 10, minor = n % 10;
    if (n == 80) multiprocessors = 108, shared_block = 166912, shared_multiprocessor = 167936;
    if (n == 86 || n == 89) multiprocessors = 84, shared_block = 101376, shared_multiprocessor = 102400;
  }
  static device const& get() {
    static device const d;
    return d;
  }
};

/// The status of a call that the plan of faults does not let through: it then does nothing. `waits`: see gpu_plan.
inline std::optional<cudaError_t> decided(dm2::faults::gpu_call kind, bool waits = true) {
  dm2::faults::gpu_answer const a = dm2::faults::gpu_plan::get().ask(kind, waits);
  if (a.status == dm2::faults::gpu_success && !a.skipped) return std::nullopt;
  return cudaError_t(a.status);
}
/// The status of a call that gives something back.
inline cudaError_t given_back() { return cudaError_t(dm2::faults::gpu_plan::get().given_back()); }

/// DM2_EMULATED_IDLE: kernels and products do nothing, so that what is around them is tried in a moment.
inline bool idle() {
  static bool const set = std::getenv("DM2_EMULATED_IDLE") != nullptr;
  return set;
}

}  // namespace emulated

enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrClockRate,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  auto const& d = emulated::device::get();
  switch (name) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.minor;
      break;
    case cudaDevAttrClockRate:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = d.shared_block;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = d.shared_multiprocessor;
      break;
  }
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* n) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  *n = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return emulated::decided(dm2::faults::gpu_device).value_or(cudaSuccess); }
inline cudaError_t cudaGetDeviceCount(int* n) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  *n = emulated::device::get().major == 0 ? 0 : 1;
  return *n == 0 ? cudaErrorNoDevice : cudaSuccess;
}
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::strcpy(p->name, "emulated");
  p->major = emulated::device::get().major, p->minor = emulated::device::get().minor;
  p->multiProcessorCount = emulated::device::get().multiprocessors;
  return cudaSuccess;
}
struct cudaFuncAttributes {
  int binaryVersion = 0, ptxVersion = 0;
};
template <class K>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, K) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  auto const& d = emulated::device::get();
  *a = {d.major * 10 + d.minor, d.major * 10 + d.minor};
  return d.major < 8 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* v) {
  *v = 0;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = 0;
  return cudaSuccess;
}
