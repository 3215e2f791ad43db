/// @file
/// The runtime's functions on the host. Memory is the host's, poisoned.
#pragma once

#include "cuda_types.hpp"
#include "device.hpp"
#include "launch.hpp"
#include "streams.hpp"

#include <cstdlib>
#include <cstring>

namespace emulated {

inline cudaError_t allocate(void** p, std::size_t n) {
  if (n > (std::size_t{1} << 40)) return cudaErrorMemoryAllocation;
  if (idle()) {
    *p = std::calloc(n, 1);  // whose pages nobody touches: three quarters of an idle run's time went into them
    return *p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  }
  *p = std::aligned_alloc(512, (n + 511) / 512 * 512);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, n);
  return cudaSuccess;
}

}  // namespace emulated

inline cudaError_t cudaMalloc(void** p, std::size_t n) {
  if (auto const status = emulated::decided(dm2::faults::gpu_memory)) return *status;
  return emulated::allocate(p, n);
}
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t n) {
  return cudaMalloc(reinterpret_cast<void**>(p), n);
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return emulated::given_back();
}
inline cudaError_t cudaMallocHost(void** p, std::size_t n) {
  if (auto const status = emulated::decided(dm2::faults::gpu_pinned)) return *status;
  return emulated::allocate(p, n);
}
inline cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
inline cudaError_t cudaMemcpy(void* to, void const* from, std::size_t n, cudaMemcpyKind) {
  if (auto const status = emulated::decided(dm2::faults::gpu_copy)) return *status;
  if (n != 0) std::memmove(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t n, cudaMemcpyKind,
                                   cudaStream_t s = nullptr) {
  if (auto const status = emulated::decided(dm2::faults::gpu_copy, false)) return *status;
  return emulated::enqueue(s, [=] {
    if (n != 0) std::memmove(to, from, n);
  });
}
inline cudaError_t cudaMemset(void* p, int v, std::size_t n) {
  if (auto const status = emulated::decided(dm2::faults::gpu_copy, false)) return *status;
  if (n != 0 && !emulated::idle()) std::memset(p, v, n);  // an idle device's memory is zero when it is new
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, std::size_t n, cudaStream_t s = nullptr) {
  if (auto const status = emulated::decided(dm2::faults::gpu_copy, false)) return *status;
  return emulated::enqueue(s, [=] {
    if (n != 0) std::memset(p, v, n);
  });
}
