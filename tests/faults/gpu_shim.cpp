// A library to preload (LD_PRELOAD) that lets one call of the CUDA runtime fail, under a program on a real GPU.
//
// gpu_plan.hpp says which, by DM2_GPU_FAULT. The program has to be linked with the shared runtime and cuBLASLt, as
// dm2's own are: calls into a static one are not seen, and scripts/gpu_faults says so.
//
// DM2_GPU_LAUNCHES names a file that gets "KERNEL COUNT" lines at the end of the process: what was launched or
// captured, by its mangled name, for scripts/sanitize_kernels.
#include "gpu_plan.hpp"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include <dlfcn.h>

namespace {

using namespace dm2::faults;

template <class F>
F next(char const* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

/// The status of a call that the plan does not let through.
std::optional<cudaError_t> decided(gpu_call kind, bool waits = true) {
  gpu_answer const a = gpu_plan::get().ask(kind, waits);
  if (a.status == gpu_success && !a.skipped) return std::nullopt;
  return cudaError_t(a.status);
}
std::optional<cublasStatus_t> decided_product(bool waits) {
  std::optional<cudaError_t> const status = decided(gpu_product, waits);
  if (!status) return std::nullopt;
  if (*status == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
  return *status == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_EXECUTION_FAILED;
}
/// What is given back is given back, and told of as the plan has it.
cudaError_t given_back(cudaError_t status) {
  gpu_status const planned = gpu_plan::get().given_back();
  return planned == gpu_success ? status : cudaError_t(planned);
}

/// The kernels that were launched, by the addresses of their host functions.
class launches {
 public:
  static launches& get() {
    static launches* const one = new launches;  // outlives the destructors of the program
    return *one;
  }
  void add(void const* kernel) {
    if (path_.empty()) return;
    std::lock_guard const lock{mutex_};
    if (long& n = counts_[kernel]; ++n == 1) {  // its name is there only while the runtime is
      char const* name = nullptr;
      // By dlsym, as all: a compiler that the program starts is preloaded, too, and has no runtime to link with.
      auto const get_name = next<decltype(&::cudaFuncGetName)>("cudaFuncGetName");
      names_[kernel] = get_name(&name, kernel) == cudaSuccess ? name : "unknown";
    }
  }

 private:
  launches() {
    if (char const* const path = std::getenv("DM2_GPU_LAUNCHES")) {
      path_ = path;
      std::atexit([] { get().write(); });
    }
  }
  void write() {
    std::lock_guard const lock{mutex_};
    std::FILE* const file = std::fopen(path_.c_str(), "w");
    if (file == nullptr) std::abort();
    for (auto const& [kernel, count] : counts_) std::fprintf(file, "%s %ld\n", names_[kernel].c_str(), count);
    if (std::fclose(file) != 0) std::abort();
  }

  std::string path_;
  std::mutex mutex_;
  std::map<void const*, long> counts_;
  std::map<void const*, std::string> names_;
};

}  // namespace

#define NEXT(name) (next<decltype(&::name)>(#name))
// A function of the runtime: its parameters in parentheses, its arguments, what kind of call it is, whether it waits.
#define DM2_CALL(name, parameters, arguments, kind, waits)        \
  cudaError_t name parameters {                                   \
    if (auto const status = decided(kind, waits)) return *status; \
    return NEXT(name) arguments;                                  \
  }
#define DM2_GIVES_BACK(name, type) \
  cudaError_t name(type p) { return given_back(NEXT(name)(p)); }

extern "C" {

DM2_CALL(cudaMalloc, (void** p, size_t n), (p, n), gpu_memory, true)
DM2_CALL(cudaMallocHost, (void** p, size_t n), (p, n), gpu_pinned, true)
DM2_GIVES_BACK(cudaFree, void*)
DM2_GIVES_BACK(cudaFreeHost, void*)

DM2_CALL(cudaMemcpy, (void* to, void const* from, size_t n, cudaMemcpyKind k), (to, from, n, k), gpu_copy, true)
DM2_CALL(cudaMemcpyAsync, (void* to, void const* from, size_t n, cudaMemcpyKind k, cudaStream_t s), (to, from, n, k, s),
         gpu_copy, false)
DM2_CALL(cudaMemset, (void* p, int v, size_t n), (p, v, n), gpu_copy, false)
DM2_CALL(cudaMemsetAsync, (void* p, int v, size_t n, cudaStream_t s), (p, v, n, s), gpu_copy, false)

cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* config, void const* kernel, void** arguments) {
  launches::get().add(kernel);
  if (auto const status = decided(gpu_launch, false)) return *status;
  return NEXT(cudaLaunchKernelExC)(config, kernel, arguments);
}
cudaError_t cudaLaunchKernel(void const* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t s) {
  launches::get().add(kernel);
  if (auto const status = decided(gpu_launch, false)) return *status;
  return NEXT(cudaLaunchKernel)(kernel, grid, block, arguments, shared, s);
}

DM2_CALL(cudaStreamSynchronize, (cudaStream_t s), (s), gpu_wait, true)
DM2_CALL(cudaStreamQuery, (cudaStream_t s), (s), gpu_wait, true)
DM2_CALL(cudaDeviceSynchronize, (), (), gpu_wait, true)
DM2_CALL(cudaEventSynchronize, (cudaEvent_t e), (e), gpu_wait, true)
DM2_CALL(cudaEventQuery, (cudaEvent_t e), (e), gpu_wait, true)

DM2_CALL(cudaEventCreate, (cudaEvent_t * e), (e), gpu_event, true)
DM2_CALL(cudaEventCreateWithFlags, (cudaEvent_t * e, unsigned f), (e, f), gpu_event, true)
DM2_CALL(cudaEventRecord, (cudaEvent_t e, cudaStream_t s), (e, s), gpu_event, false)
DM2_CALL(cudaEventElapsedTime, (float* ms, cudaEvent_t a, cudaEvent_t b), (ms, a, b), gpu_event, true)
DM2_CALL(cudaStreamWaitEvent, (cudaStream_t s, cudaEvent_t e, unsigned f), (s, e, f), gpu_event, false)
DM2_GIVES_BACK(cudaEventDestroy, cudaEvent_t)

DM2_CALL(cudaStreamCreateWithFlags, (cudaStream_t * s, unsigned f), (s, f), gpu_stream, true)
DM2_GIVES_BACK(cudaStreamDestroy, cudaStream_t)

DM2_CALL(cudaStreamBeginCapture, (cudaStream_t s, cudaStreamCaptureMode m), (s, m), gpu_graph, true)
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  auto const status = decided(gpu_graph);
  cudaError_t const real = NEXT(cudaStreamEndCapture)(s, g);  // the capture is over whatever is said of it
  if (!status) return real;
  if (real == cudaSuccess) NEXT(cudaGraphDestroy)(*g);
  *g = nullptr;
  return *status;
}
DM2_CALL(cudaGraphInstantiate, (cudaGraphExec_t * x, cudaGraph_t g, unsigned long long f), (x, g, f), gpu_graph, true)
DM2_CALL(cudaGraphLaunch, (cudaGraphExec_t g, cudaStream_t s), (g, s), gpu_graph, false)
DM2_GIVES_BACK(cudaGraphDestroy, cudaGraph_t)
DM2_GIVES_BACK(cudaGraphExecDestroy, cudaGraphExec_t)

DM2_CALL(cudaDeviceGetAttribute, (int* v, cudaDeviceAttr a, int d), (v, a, d), gpu_device, true)
DM2_CALL(cudaGetDevice, (int* d), (d), gpu_device, true)
DM2_CALL(cudaSetDevice, (int d), (d), gpu_device, true)
DM2_CALL(cudaGetDeviceCount, (int* n), (n), gpu_device, true)
DM2_CALL(cudaFuncGetAttributes, (cudaFuncAttributes * a, void const* f), (a, f), gpu_device, true)
DM2_CALL(cudaFuncSetAttribute, (void const* f, cudaFuncAttribute a, int v), (f, a, v), gpu_device, true)
DM2_CALL(cudaOccupancyMaxActiveBlocksPerMultiprocessor, (int* n, void const* f, int t, size_t m), (n, f, t, m),
         gpu_device, true)

cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  if (auto const status = decided_product(true)) return *status;
  return NEXT(cublasLtCreate)(h);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  if (auto const status = decided_product(true)) return *status;
  return NEXT(cublasLtMatmulAlgoGetHeuristic)(h, o, a, b, c, d, p, wanted, results, count);
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t o, void const* alpha, void const* a,
                              cublasLtMatrixLayout_t la, void const* b, cublasLtMatrixLayout_t lb, void const* beta,
                              void const* c, cublasLtMatrixLayout_t lc, void* d, cublasLtMatrixLayout_t ld,
                              cublasLtMatmulAlgo_t const* algorithm, void* workspace, size_t bytes, cudaStream_t s) {
  if (auto const status = decided_product(false)) return *status;
  return NEXT(cublasLtMatmul)(h, o, alpha, a, la, b, lb, beta, c, lc, d, ld, algorithm, workspace, bytes, s);
}

}  // extern "C"
