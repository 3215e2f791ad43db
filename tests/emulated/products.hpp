/// @file
/// What dm2 uses of cuBLASLt. Matrices of 16-bit numbers must be aligned to 4 bytes and have even strides, as there.
#pragma once

#include "runtime.hpp"

#include <Eigen/Core>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
/// A status's name, and what cuBLASLt says of it, which has no name in it.
inline std::pair<char const*, char const*> words_of(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS:
      return {"CUBLAS_STATUS_SUCCESS", "success"};
    case CUBLAS_STATUS_ALLOC_FAILED:
      return {"CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"};
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return {"CUBLAS_STATUS_EXECUTION_FAILED", "the function failed to launch on the GPU"};
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return {"CUBLAS_STATUS_NOT_SUPPORTED", "the requested functionality is not supported"};
    default:
      return {"CUBLAS_STATUS_INVALID_VALUE", "an unsupported value or parameter was passed to the function"};
  }
}
inline char const* cublasLtGetStatusName(cublasStatus_t s) { return words_of(s).first; }
inline char const* cublasLtGetStatusString(cublasStatus_t s) { return words_of(s).second; }

namespace emulated {

/// As decided(), in cuBLASLt's words.
inline std::optional<cublasStatus_t> decided_product(bool waits) {
  std::optional<cudaError_t> const status = decided(dm2::faults::gpu_product, waits);
  if (!status) return std::nullopt;
  return *status == cudaSuccess                 ? CUBLAS_STATUS_SUCCESS
         : *status == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
                                                : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace emulated
enum cudaDataType_t { CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasLtEpilogue_t { CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS };
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_TRANSA,
  CUBLASLT_MATMUL_DESC_TRANSB,
  CUBLASLT_MATMUL_DESC_EPILOGUE,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER
};
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
};
enum { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2 };

struct cublasLtContext {};
using cublasLtHandle_t = cublasLtContext*;
inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  if (auto const status = emulated::decided_product(true)) return *status;
  *h = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
  delete h;
  return CUBLAS_STATUS_SUCCESS;
}

struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  cublasOperation_t a, b;
  cublasLtEpilogue_t epilogue;
  void const* bias;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t stride;
};
struct cublasLtMatmulPreferenceOpaque_t {
  std::uint32_t alignment;
};
struct cublasLtMatmulAlgo_t {};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  std::size_t workspaceSize;
  cublasStatus_t state;
};

inline cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDescOpaque_t* d, cublasComputeType_t c, cudaDataType_t) {
  *d = {c, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDescOpaque_t* d, cublasLtMatmulDescAttributes_t name,
                                                     void const* value, std::size_t bytes) {
  void* const to = name == CUBLASLT_MATMUL_DESC_TRANSA     ? static_cast<void*>(&d->a)
                   : name == CUBLASLT_MATMUL_DESC_TRANSB   ? static_cast<void*>(&d->b)
                   : name == CUBLASLT_MATMUL_DESC_EPILOGUE ? static_cast<void*>(&d->epilogue)
                                                           : static_cast<void*>(&d->bias);
  std::memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayoutOpaque_t* l, cudaDataType_t t, std::uint64_t rows,
                                               std::uint64_t cols, std::int64_t stride) {
  *l = {t, rows, cols, stride};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreferenceOpaque_t* p) {
  *p = {16};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreferenceOpaque_t* p,
                                                           cublasLtMatmulPreferenceAttributes_t name, void const* value,
                                                           std::size_t) {
  std::uint32_t v;
  std::memcpy(&v, value, sizeof v);
  if (name >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && v < p->alignment) p->alignment = v;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDescOpaque_t* d,
                                                     cublasLtMatrixLayoutOpaque_t* a, cublasLtMatrixLayoutOpaque_t* b,
                                                     cublasLtMatrixLayoutOpaque_t* c, cublasLtMatrixLayoutOpaque_t*,
                                                     cublasLtMatmulPreferenceOpaque_t* p, int,
                                                     cublasLtMatmulHeuristicResult_t* results, int* count) {
  *count = 0;
  if (auto const status = emulated::decided_product(true)) return *status;
  bool const halves = a->type != CUDA_R_32F, odd = a->stride % 2 != 0 || b->stride % 2 != 0 || c->stride % 2 != 0;
  if (halves && (odd || p->alignment < 4)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (d->epilogue == CUBLASLT_EPILOGUE_BIAS && reinterpret_cast<std::uintptr_t>(d->bias) % 4 != 0)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *results = {{}, 0, CUBLAS_STATUS_SUCCESS};
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

namespace emulated {

inline float number(void const* p, cudaDataType_t type, std::int64_t at, bool tf32 = false) {
  if (type == CUDA_R_16BF) return __bfloat162float(static_cast<__nv_bfloat16 const*>(p)[at]);
  if (type == CUDA_R_16F) return __half2float(static_cast<__half const*>(p)[at]);
  float const x = static_cast<float const*>(p)[at];
  return tf32 && std::isfinite(x) ? __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u) : x;
}
inline void put(void* p, cudaDataType_t type, std::int64_t at, float x) {
  if (type == CUDA_R_16BF)
    static_cast<__nv_bfloat16*>(p)[at] = __float2bfloat16_rn(x);
  else if (type == CUDA_R_16F)
    static_cast<__half*>(p)[at] = __float2half_rn(x);
  else
    static_cast<float*>(p)[at] = x;
}
inline Eigen::MatrixXf factor(void const* p, cublasLtMatrixLayoutOpaque_t const& l, cublasOperation_t op, bool tf32) {
  Eigen::MatrixXf m(Eigen::Index(l.rows), Eigen::Index(l.cols));
  for (Eigen::Index j = 0; j < m.cols(); ++j)
    for (Eigen::Index i = 0; i < m.rows(); ++i) m(i, j) = number(p, l.type, i + j * l.stride, tf32);
  if (op == CUBLAS_OP_T) return m.transpose();
  return m;
}

}  // namespace emulated

inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDescOpaque_t* description, void const* alpha,
                                     void const* a, cublasLtMatrixLayoutOpaque_t* la, void const* b,
                                     cublasLtMatrixLayoutOpaque_t* lb, void const* beta, void const* c,
                                     cublasLtMatrixLayoutOpaque_t*, void* d, cublasLtMatrixLayoutOpaque_t* ld,
                                     cublasLtMatmulAlgo_t const*, void*, std::size_t, cudaStream_t stream) {
  if (auto const status = emulated::decided_product(false)) return *status;
  if (emulated::idle()) return CUBLAS_STATUS_SUCCESS;
  float const scale = *static_cast<float const*>(alpha), keep = *static_cast<float const*>(beta);
  auto const run = [=, o = *description, la = *la, lb = *lb, ld = *ld] {
    bool const tf32 = o.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    Eigen::MatrixXf const sums = emulated::factor(a, la, o.a, tf32) * emulated::factor(b, lb, o.b, tf32);
    for (Eigen::Index j = 0; j < sums.cols(); ++j)
      for (Eigen::Index i = 0; i < sums.rows(); ++i) {
        std::int64_t const at = i + j * ld.stride;
        float x = scale * sums(i, j);
        if (keep != 0) x += keep * emulated::number(c, ld.type, at);
        if (o.epilogue == CUBLASLT_EPILOGUE_BIAS) x += emulated::number(o.bias, ld.type, i);
        emulated::put(d, ld.type, at, x);
      }
  };
  emulated::enqueue(stream, run);
  return CUBLAS_STATUS_SUCCESS;
}
