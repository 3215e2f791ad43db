/// @file
/// The sizes, operands and shared memory of the kernel between two cores. See tensor.cuh.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The kernel's constants: T the operands' type, D channels of the residual stream, K those of g (0: there is no output
/// projection), N those of y (0: y are the normed rows), U units whose sums of squares scale each half of g (0: g is
/// taken as it is), Rows of a block, Limit bytes of shared memory that a block may have.
template <class T, int D, int K, int N, int U, int Rows, int Limit>
struct between_traits {
  using element = T;
  static constexpr int dim = D, inner = K, wide = N, units = U, rows = Rows;
  static constexpr int warps_n = Rows < 128 && D % 64 == 0 ? 4 : 2;
  static constexpr int warps_m = Rows == 128 ? 4 : Rows == 64 ? 8 / warps_n : Rows / 16;
  static constexpr int threads = 32 * warps_m * warps_n;
  static constexpr int row_tiles = Rows / 16 / warps_m;  ///< of 16 rows, of a warp
  static constexpr int dim_groups = D / 16 / warps_n;    ///< of 16 columns, of a warp, in the first product
  static constexpr int depth = K % 64 == 0 ? 64 : 32;    ///< columns of g that are in shared memory at a time
  static constexpr int steps = K / depth;
  static constexpr int depth_pitch = depth * 2 + 16;  ///< bytes: an odd number of 16 bytes, against bank conflicts
  static constexpr int dim_pitch = D * 2 + 16;
  static constexpr int stage_bytes = K == 0 ? 0 : (Rows + D) * depth_pitch;
  static constexpr int vector_bytes = (2 + warps_n) * Rows * int(sizeof(float));

  static constexpr int total(int stages, int chunk) {
    int const slot = N == 0 ? 0 : chunk * dim_pitch, over = 2 * slot;
    return (stages * stage_bytes > over ? stages * stage_bytes : over) + (N == 0 ? 0 : Rows * dim_pitch) + slot +
           vector_bytes;
  }
  static constexpr int wide_chunk = warps_n == 4 ? 128 : 96;  ///< columns of y at a time, where they fit
  static constexpr int stages = total(3, warps_n * 16) <= Limit ? 3 : 2;
  static constexpr int chunk = total(stages, wide_chunk) <= Limit ? wide_chunk : warps_n * 16;
  static constexpr int slot_bytes = N == 0 ? 0 : chunk * dim_pitch;
  static constexpr int chunks = (N + chunk - 1) / chunk;
  static constexpr int chunk_groups = chunk / 16 / warps_n;  ///< of 16 columns, of a warp, in the second product
  static constexpr int region_bytes = stages * stage_bytes > 2 * slot_bytes ? stages* stage_bytes : 2 * slot_bytes;
  static constexpr int bytes = total(stages, chunk);
  static constexpr bool keep_normed = D / 16 * row_tiles <= 24;  ///< the second product's operand stays in registers

  static constexpr bool possible = is_half<T> && D % (16 * warps_n) == 0 && D / warps_n * row_tiles <= 192 &&
                                   K % 32 == 0 && (K == 0 || steps >= 3) && N % 4 == 0 && (U == 0 || steps % 2 == 0) &&
                                   bytes <= Limit;
};

template <class T>
struct between_arguments {
  T const* g;             ///< [R, K]
  float const* squares;   ///< [R, 2, U]
  T const* out;           ///< [D, K]
  float const* out_bias;  ///< [D] or null
  float const* before;    ///< [R, D]
  float* after;           ///< [R, D], may be `before`
  float* rstd;            ///< [R] or null
  float const* norm;      ///< [D]
  T const* in;            ///< [N, D]
  float const* in_bias;   ///< [N] or null
  T* y;                   ///< [R, N], or [R, D] where N is 0
  int count;              ///< R
  float eps;
};

/// A block's places in shared memory.
template <class Tr>
struct between_memory {
  std::uint32_t stages, slot0, normed;
  float *rho, *sums;

  __device__ explicit between_memory(unsigned char* base)
      : stages{shared_address(base)},
        slot0{stages + std::uint32_t(Tr::region_bytes)},
        normed{slot0 + std::uint32_t(Tr::slot_bytes)},
        rho{reinterpret_cast<float*>(base + Tr::bytes - Tr::vector_bytes)},
        sums{rho + 2 * Tr::rows} {}
  /// The weights of chunk j of y: slots 1 and 2 lie where the first product's operands were.
  [[nodiscard]] __device__ std::uint32_t slot(int j) const {
    return j % 3 == 0 ? slot0 : stages + std::uint32_t((j % 3 - 1) * Tr::slot_bytes);
  }
};

}  // namespace dm2::cuda::detail
