/// @file
/// A context's device, and whether the program has code for it.
#pragma once

#include <dm2/cuda/check.cuh>

#include <initializer_list>
#include <string>

namespace dm2::cuda {
namespace detail {

inline int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "device attribute");
  return value;
}

/// "13.0" of 13000.
inline std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// "8.0, 9.0" of {800, 900}.
inline std::string architecture_names(std::initializer_list<int> architectures) {
  std::string text;
  for (int const a : architectures)
    text += (text.empty() ? "" : ", ") + std::to_string(a / 100) + "." + std::to_string(a % 100 / 10);
  return text;
}

/// The compute capabilities that this file is compiled for.
inline std::string built_architectures() {
#ifdef __CUDA_ARCH_LIST__
  return architecture_names({__CUDA_ARCH_LIST__});
#else
  return "none";
#endif
}

/// Why there is no device: what the runtime says, and the versions of the installed driver (0: there is none) and of
/// the runtime.
inline std::string no_device_text(cudaError_t status, int driver, int runtime) {
  if (status == cudaErrorInsufficientDriver && driver == 0)
    return "no GPU can be used: NVIDIA's driver is not installed, or cannot be reached from here";
  if (status == cudaErrorInsufficientDriver)
    return "no GPU can be used: the driver is for CUDA " + version_name(driver) + ", this program needs one for " +
           version_name(runtime);
  return "no GPU can be used: the driver finds none (CUDA_VISIBLE_DEVICES may hide them)";
}

/// Why a device cannot run this program.
inline std::string no_code_text(std::string const& name, int number, int major, int minor, std::string const& built) {
  std::string const capability = std::to_string(major) + "." + std::to_string(minor);
  return "device " + std::to_string(number) + ", " + name + ", has compute capability " + capability +
         ", and this program was built for " + built + " only: add " + std::to_string(major) + std::to_string(minor) +
         (major == 9 && minor == 0 ? "a" : "") + " to CMAKE_CUDA_ARCHITECTURES";
}

/// A kernel that the runtime is asked about.
template <int>
__global__ void probe_kernel() {}

}  // namespace detail

/// What a kernel's launch is chosen by.
struct device_properties {
  int device;            ///< its number
  int major;             ///< compute capability
  int minor;             ///< compute capability
  int multiprocessors;   ///< of the device
  int shared_per_block;  ///< bytes of shared memory that a block may ask for
  int shared_per_sm;     ///< bytes of shared memory of a multiprocessor, 1 KB a block of them taken

  /// Of device number `device`.
  explicit device_properties(int number)
      : device{number},
        major{detail::attribute(cudaDevAttrComputeCapabilityMajor, number)},
        minor{detail::attribute(cudaDevAttrComputeCapabilityMinor, number)},
        multiprocessors{detail::attribute(cudaDevAttrMultiProcessorCount, number)},
        shared_per_block{detail::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, number)},
        shared_per_sm{detail::attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, number)} {}
};

/// The current device's number. Throws error, saying what is missing, where there is no device or no driver for it.
inline int current_device() {
  int count = 0, device = 0;
  cudaError_t const status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    static_cast<void>(cudaGetLastError());
    int driver = 0, runtime = 0;
    check(cudaDriverGetVersion(&driver), "driver's version");
    check(cudaRuntimeGetVersion(&runtime), "runtime's version");
    throw error{detail::no_device_text(status, driver, runtime)};
  }
  check(status, "devices");
  check(cudaGetDevice(&device), "current device");
  return device;
}

/// Shared memory of a block on the devices that have most, those of compute capability 9.0; kernels that would take
/// more are not built. device_properties::shared_per_block is that of a device.
inline constexpr int most_shared_bytes = 227 * 1024;

/// Whether this program has code for the current device. Throws error where the device cannot be asked: one that is
/// lost has not lost its code.
[[nodiscard]] inline bool has_code() {
  cudaFuncAttributes attributes{};
  cudaError_t const status = cudaFuncGetAttributes(&attributes, detail::probe_kernel<0>);
  if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction &&
      status != cudaErrorUnsupportedPtxVersion) {
    check(status, "device: code");
    return true;
  }
  static_cast<void>(cudaGetLastError());
  return false;
}

/// Throws error, naming the device and what was built, unless this program has code for it, the current device.
inline void require_code(device_properties const& p) {
  if (has_code()) return;
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, p.device), "device's name");
  throw error{detail::no_code_text(device.name, p.device, p.major, p.minor, detail::built_architectures())};
}

/// Whether kernels can start early there (instructions/early_start.cuh): the device can, and what it runs of this
/// program was not compiled for less, as the driver would from an older PTX.
inline bool has_early_starts(device_properties const& p) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, detail::probe_kernel<0>), "device: code");
  return p.major >= 9 && attributes.ptxVersion >= 90;
}

}  // namespace dm2::cuda
