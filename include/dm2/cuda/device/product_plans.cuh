/// @file
/// Plans of products through cuBLASLt, found once and kept.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

namespace dm2::cuda::detail {

/// Everything that the choice of an algorithm depends on, for c [m, n] = op(a) op(b) with row-major matrices.
struct product_key {
  cudaDataType_t in;                ///< of a and b
  cudaDataType_t out;               ///< of c, and of the bias
  bool tf32;                        ///< float operands may be rounded
  bool a_transposed, b_transposed;  ///< op
  std::int64_t m, n, k;             ///< extents
  std::int64_t lda, ldb, ldc;       ///< elements from row to row
  std::size_t alignment;            ///< bytes that the address of every matrix is a multiple of, 16 at most
  std::size_t bias_alignment;       ///< the same for the bias, 0 where there is none

  auto operator<=>(product_key const&) const = default;
};

/// What a product of one kind runs with.
struct product_plan {
  cublasLtMatmulDescOpaque_t operation;  ///< op, type of the sums, epilogue
  cublasLtMatrixLayoutOpaque_t a, b, c;  ///< as the library sees them, column by column: the transposes
  cublasLtMatmulAlgo_t algorithm;        ///< always this one, so that two runs give the same bits
  bool found;                            ///< false where the library has none for these extents and addresses
};

/// The plans of one context, and the memory that the library's algorithms share.
class product_plans {
 public:
  /// Bytes of an algorithm's workspace: what NVIDIA advises for compute capability 9, and for the others.
  static constexpr std::size_t hopper_workspace = std::size_t{32} << 20, workspace = std::size_t{4} << 20;
  /// Bytes for a bias in the output's 16 bits.
  static constexpr std::size_t bias_bytes = std::size_t{256} << 10;

  /// The plan of `key`; made, and on the first call the memory taken, where there is none yet. The library reads the
  /// alignment off the address of `bias`.
  product_plan& find(cublasLtHandle_t handle, product_key const& key, void const* bias, int major) {
    if (memory_.size() == 0) memory_ = device_memory{bias_bytes + (major >= 9 ? hopper_workspace : workspace)};
    auto const [at, added] = plans_.try_emplace(key);
    if (added) {
      try {
        make(handle, key, bias, at->second);
      } catch (...) {
        plans_.erase(at);
        throw;
      }
    }
    return at->second;
  }

  /// For the one product that runs now.
  [[nodiscard]] std::byte* workspace_data() const { return memory_.data() + bias_bytes; }
  /// Bytes there.
  [[nodiscard]] std::size_t workspace_size() const { return memory_.size() - bias_bytes; }
  /// bias_bytes of memory.
  [[nodiscard]] std::byte* bias_data() const { return memory_.data(); }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const { return memory_.size(); }
  /// Plans so far.
  [[nodiscard]] std::size_t size() const { return plans_.size(); }

 private:
  static void set(cublasLtMatmulDescOpaque_t& d, cublasLtMatmulDescAttributes_t name, auto const& value) {
    check(cublasLtMatmulDescSetAttribute(&d, name, &value, sizeof value), "product: operation");
  }
  static void set(cublasLtMatmulPreferenceOpaque_t& d, cublasLtMatmulPreferenceAttributes_t name, auto const& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&d, name, &value, sizeof value), "product: preference");
  }
  /// A row-major matrix is its transpose column by column.
  static void lay_out(cublasLtMatrixLayoutOpaque_t& d, cudaDataType_t type, std::int64_t rows, std::int64_t cols,
                      std::int64_t stride) {
    check(cublasLtMatrixLayoutInit(&d, type, std::uint64_t(cols), std::uint64_t(rows), stride), "product: layout");
  }

  /// c^T = op(b)^T op(a)^T: b is the library's first factor, transposed once more than here.
  void make(cublasLtHandle_t handle, product_key const& key, void const* bias, product_plan& p) const {
    cublasComputeType_t const sums = key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check(cublasLtMatmulDescInit(&p.operation, sums, CUDA_R_32F), "product: operation");
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSA, key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.operation, CUBLASLT_MATMUL_DESC_TRANSB, key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (key.bias_alignment != 0) {
      set(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    lay_out(p.a, key.in, key.a_transposed ? key.k : key.m, key.a_transposed ? key.m : key.k, key.lda);
    lay_out(p.b, key.in, key.b_transposed ? key.n : key.k, key.b_transposed ? key.k : key.n, key.ldb);
    lay_out(p.c, key.out, key.m, key.n, key.ldc);
    choose(handle, key, p);
  }

  void choose(cublasLtHandle_t handle, product_key const& key, product_plan& p) const {
    cublasLtMatmulPreferenceOpaque_t wanted;
    check(cublasLtMatmulPreferenceInit(&wanted), "product: preference");
    set(wanted, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_size()});
    // Parts of k are summed in float in a fixed order or not at all: never in c's own 16 bits.
    set(wanted, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (auto const name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(wanted, name, std::uint32_t(key.alignment));
    std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
    int count = 0;
    cublasStatus_t const status = cublasLtMatmulAlgoGetHeuristic(handle, &p.operation, &p.b, &p.a, &p.c, &p.c, &wanted,
                                                                 int(results.size()), results.data(), &count);
    p.found = false;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return;  // odd extents
    check(status, "product: choice of the algorithm");
    for (int i = 0; i < count && !p.found; ++i) {
      auto const& r = results[std::size_t(i)];
      if (r.state != CUBLAS_STATUS_SUCCESS || r.workspaceSize > workspace_size()) continue;
      p.algorithm = r.algo;
      p.found = true;
    }
  }

  device_memory memory_;
  std::map<product_key, product_plan> plans_;
};

}  // namespace dm2::cuda::detail
