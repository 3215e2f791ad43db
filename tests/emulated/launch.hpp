/// @file
/// Launches on the host: a grid's blocks on every processor, each a machine.
#pragma once

#include "cuda_types.hpp"
#include "machine.hpp"
#include "streams.hpp"
#include "workers.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <type_traits>

namespace emulated {

/// The shared memory that kernels have been allowed.
inline std::map<void const*, int>& allowed_shared() {
  static std::map<void const*, int> m;
  return m;
}
inline std::mutex& allowed_mutex() {
  static std::mutex m;
  return m;
}

/// How often threads of the running block waited for the kernel ahead.
inline unsigned& waits_of_block() {
  static thread_local unsigned n = 0;
  return n;
}

/// Runs a grid, its blocks on every processor. In one that may start early each thread has to wait once.
template <class Body>
void run_grid(dim3 grid, dim3 block, std::size_t shared, bool early, Body const& body) {
  static std::atomic<std::uint64_t> launches{0};
  std::uint64_t const seed = ++launches * 1000003, count = std::uint64_t{grid.x} * grid.y * grid.z;
  std::atomic<std::uint64_t> next{0};
  std::exception_ptr failure;
  std::mutex failed;
  auto const worker = [&] {
    try {
      machine m{block.x, shared};
      blockDim = {block.x, 1, 1};
      gridDim = {grid.x, grid.y, grid.z};
      for (std::uint64_t i = next++; i < count; i = next++) {
        blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
        waits_of_block() = 0;
        m.run(
            seed + i,
            [](unsigned t) {
              threadIdx = {t, 0, 0};
            },
            body);
        if (early && waits_of_block() != block.x)
          throw std::logic_error{"threads of a kernel that may start early do not wait once each"};
      }
    } catch (...) {
      next = count;
      std::lock_guard const lock{failed};
      failure = std::current_exception();
    }
  };
  workers::get().run(std::size_t(std::min<std::uint64_t>(workers::processors(), count)) - 1, worker);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace emulated

enum { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  int id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
enum { cudaSharedmemCarveoutMaxShared = 100 };

template <class K>
cudaError_t cudaFuncSetAttribute(K kernel, cudaFuncAttribute name, int value) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  if (name != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > emulated::device::get().shared_block) return cudaErrorInvalidValue;
  std::lock_guard const lock{emulated::allowed_mutex()};
  emulated::allowed_shared()[reinterpret_cast<void const*>(kernel)] = value;
  return cudaSuccess;
}
template <class K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int threads, std::size_t shared) {
  if (auto const status = emulated::decided(dm2::faults::gpu_device)) return *status;
  auto const& d = emulated::device::get();
  *blocks = std::min(2048 / threads, int(std::size_t(d.shared_multiprocessor) / (shared + 1024)));
  return cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* c, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (auto const status = emulated::decided(dm2::faults::gpu_launch, false)) return *status;
  dim3 const g = c->gridDim, b = c->blockDim;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.y > 65535 || g.z > 65535 || g.x > 0x7fffffffu || b.x == 0 || b.x > 1024 ||
      b.x % 32 != 0 || b.y != 1 || b.z != 1)
    return cudaErrorInvalidConfiguration;
  {
    std::lock_guard const lock{emulated::allowed_mutex()};
    auto const at = emulated::allowed_shared().find(reinterpret_cast<void const*>(kernel));
    if (c->dynamicSmemBytes > std::size_t(at == emulated::allowed_shared().end() ? 49152 : std::max(49152, at->second)))
      return cudaErrorInvalidValue;
  }
  if (emulated::idle()) return cudaSuccess;
  bool const early = c->numAttrs != 0 && c->attrs->id == cudaLaunchAttributeProgrammaticStreamSerialization;
  return emulated::enqueue(
      c->stream, [=, shared = c->dynamicSmemBytes, values = std::tuple<std::remove_cv_t<Parameters>...>(arguments...)] {
        emulated::run_grid(g, b, shared, early, [&] { std::apply(kernel, values); });
      });
}
