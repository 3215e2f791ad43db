/// @file
/// The runtime's functions on the host. Memory is the host's, poisoned; a stream's work is done when it is enqueued,
/// or recorded where the stream is being captured.
#pragma once

#include "cuda_types.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

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
    default:
      return "cudaError";
  }
}
inline char const* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : "refused by the emulation";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulated {

/// What has been enqueued while a stream was captured.
using work_list = std::vector<std::function<void()>>;
struct stream_state {
  std::shared_ptr<work_list> capture;
};
struct event_state {
  std::shared_ptr<work_list> capture;
  std::chrono::steady_clock::time_point time;
};
struct graph_state {
  work_list work;
};

}  // namespace emulated

using cudaStream_t = emulated::stream_state*;
using cudaEvent_t = emulated::event_state*;
using cudaGraph_t = emulated::graph_state*;
using cudaGraphExec_t = emulated::graph_state*;

namespace emulated {

template <class F>
cudaError_t enqueue(cudaStream_t s, F&& work) {
  if (s != nullptr && s->capture)
    s->capture->emplace_back(std::forward<F>(work));
  else
    work();
  return cudaSuccess;
}

/// The device: an H100, or what DM2_EMULATED_DEVICE names: 80, 86, 89 or 90.
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
  static unsigned const processors = std::max(1u, std::thread::hardware_concurrency());
  auto const threads = std::min<std::uint64_t>(processors, count);
  std::vector<std::thread> others;
  for (std::uint64_t i = 1; i < threads; ++i) others.emplace_back(worker);
  worker();
  for (auto& t : others) t.join();
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
  if (name != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > emulated::device::get().shared_block) return cudaErrorInvalidValue;
  std::lock_guard const lock{emulated::allowed_mutex()};
  emulated::allowed_shared()[reinterpret_cast<void const*>(kernel)] = value;
  return cudaSuccess;
}
template <class K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, K, int threads, std::size_t shared) {
  auto const& d = emulated::device::get();
  *blocks = std::min(2048 / threads, int(std::size_t(d.shared_multiprocessor) / (shared + 1024)));
  return cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* c, void (*kernel)(Parameters...), Arguments&&... arguments) {
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
  bool const early = c->numAttrs != 0 && c->attrs->id == cudaLaunchAttributeProgrammaticStreamSerialization;
  return emulated::enqueue(
      c->stream, [=, shared = c->dynamicSmemBytes, values = std::tuple<std::remove_cv_t<Parameters>...>(arguments...)] {
        emulated::run_grid(g, b, shared, early, [&] { std::apply(kernel, values); });
      });
}

inline cudaError_t cudaMalloc(void** p, std::size_t n) {
  if (n > (std::size_t{1} << 40)) return cudaErrorMemoryAllocation;
  *p = std::aligned_alloc(512, (n + 511) / 512 * 512);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, n);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t n) {
  return cudaMalloc(reinterpret_cast<void**>(p), n);
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, std::size_t n) { return cudaMalloc(p, n); }
inline cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
inline cudaError_t cudaMemcpy(void* to, void const* from, std::size_t n, cudaMemcpyKind) {
  if (n != 0) std::memmove(to, from, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t n, cudaMemcpyKind,
                                   cudaStream_t s = nullptr) {
  return emulated::enqueue(s, [=] {
    if (n != 0) std::memmove(to, from, n);
  });
}
inline cudaError_t cudaMemset(void* p, int v, std::size_t n) {
  if (n != 0) std::memset(p, v, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, std::size_t n, cudaStream_t s = nullptr) {
  return emulated::enqueue(s, [=] {
    if (n != 0) std::memset(p, v, n);
  });
}

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new emulated::stream_state;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  return s != nullptr && s->capture ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
inline cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new emulated::event_state;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = nullptr) {
  e->capture = s == nullptr ? nullptr : s->capture;
  e->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned = 0) {
  if (s != nullptr && e->capture) s->capture = e->capture;
  return cudaSuccess;
}

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  s->capture = std::make_shared<emulated::work_list>();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  *g = new emulated::graph_state{std::move(*s->capture)};
  s->capture.reset();
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* x, cudaGraph_t g, unsigned long long = 0) {
  *x = new emulated::graph_state{*g};
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
  delete g;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
  for (auto const& work : g->work) emulated::enqueue(s, work);
  return cudaSuccess;
}

enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrClockRate,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
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
  *n = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* n) {
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
