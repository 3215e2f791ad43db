// What examples/support/gpu.hpp declares.
#include "../support/gpu.hpp"

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/properties.cuh>

#include <string>

namespace dm2::example {

std::string gpu_problem() {
  try {
    static_cast<void>(cuda::device_properties{cuda::current_device()});
  } catch (cuda::error const& problem) {
    return problem.what();
  }
  return "";
}

bool gpu_has_code() { return cuda::has_code(); }

std::string gpu_architecture() {
  int device = 0, major = 0, minor = 0;
  cuda::check(cudaGetDevice(&device), "device");
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  // the instructions of 9.0a (wgmma, setmaxnreg) are those of its devices alone
  return std::to_string(major) + std::to_string(minor) + (major == 9 && minor == 0 ? "a" : "");
}

}  // namespace dm2::example
