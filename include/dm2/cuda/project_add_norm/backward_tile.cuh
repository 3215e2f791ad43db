/// @file
/// What the kernel of the gradients between two cores is made of: its sizes, its operands, where a thread works, and
/// products with weights as they lie in memory.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/tile.cuh>

#include <algorithm>
#include <cstdint>

namespace dm2::cuda::detail {

/// The kernel's constants: T the operands' type, D channels of the residual stream, K those of g, N those of y, Limit
/// bytes of shared memory that a block may have. A block takes 128 rows, a warp 32 rows and half the columns.
template <class T, int D, int K, int N, int Limit>
struct between_backward_traits {
  using element = T;
  static constexpr int dim = D, inner = K, wide = N, rows = 128, warps_m = 4, warps_n = 2, threads = 256;
  static constexpr int row_tiles = 2;        ///< of 16 rows, of a warp
  static constexpr int dim_groups = D / 32;  ///< of 16 columns, of a warp, in the first product
  static constexpr int depth = 64;           ///< columns of dy that are in shared memory at a time
  static constexpr int steps = (N + depth - 1) / depth, stages = 3;
  static constexpr int depth_pitch = depth * 2 + 16;  ///< bytes: an odd number of 16 bytes, against bank conflicts
  static constexpr int dim_pitch = D * 2 + 16;
  static constexpr int chunk = K % 96 == 0 ? 96 : 64;  ///< columns of dg at a time
  static constexpr int chunks = K / chunk, chunk_pitch = chunk * 2 + 16;
  static constexpr int chunk_groups = chunk / 32;  ///< of 16 columns, of a warp, in the second product
  static constexpr int stage_bytes = rows * depth_pitch + depth * dim_pitch;
  static constexpr int slot_bytes = D * chunk_pitch, tile_bytes = rows * dim_pitch;
  static constexpr int region_bytes = std::max(stages * stage_bytes, 2 * slot_bytes + tile_bytes);
  static constexpr int vector_bytes = (warps_n * rows + warps_m * D) * int(sizeof(float));
  static constexpr int bytes = region_bytes + slot_bytes + tile_bytes + vector_bytes;

  static constexpr bool possible =
      is_half<T> && D % 64 == 0 && D <= 192 && N % 8 == 0 && steps >= 3 && K % chunk == 0 && bytes <= Limit;
};

template <class T>
struct between_backward_arguments {
  T const* dy;            ///< [R, N]
  T const* in;            ///< [N, D]
  float const* residual;  ///< [R, D]
  float const* rstd;      ///< [R]
  float const* norm;      ///< [D]
  float* dresidual;       ///< [R, D], updated
  T* normed;              ///< [R, D], the normed rows
  T* rounded;             ///< [R, D], dresidual
  T const* out;           ///< [D, K]
  T* dg;                  ///< [R, K]
  float* parts;           ///< [blocks, D], sums of the norm's gradient
  int count;              ///< R
};

/// A block's places in shared memory.
template <class Tr>
struct between_backward_memory {
  std::uint32_t stages, slot0;
  unsigned char *normed, *rounded;  ///< tiles [rows, D]; the first where the first product's operands were
  float *row_sums, *column_sums;    ///< [warps_n, rows], [warps_m, D]

  __device__ explicit between_backward_memory(unsigned char* base)
      : stages{shared_address(base)},
        slot0{stages + std::uint32_t(Tr::region_bytes)},
        normed{base + 2 * Tr::slot_bytes},
        rounded{base + Tr::region_bytes + Tr::slot_bytes},
        row_sums{reinterpret_cast<float*>(base + Tr::bytes - Tr::vector_bytes)},
        column_sums{row_sums + Tr::warps_n * Tr::rows} {}
  /// The weights of chunk j of dg: slots 1 and 2 lie where the first product's operands were.
  [[nodiscard]] __device__ std::uint32_t slot(int j) const {
    return j % 3 == 0 ? slot0 : stages + std::uint32_t((j % 3 - 1) * Tr::slot_bytes);
  }
};

/// Where a thread's numbers of a tile of results stand.
template <class Tr>
struct between_backward_place {
  int lane = int(threadIdx.x) % 32, wm = int(threadIdx.x) / 32 / Tr::warps_n, wn = int(threadIdx.x) / 32 % Tr::warps_n;
  int first = int(blockIdx.x) * Tr::rows;                    ///< the block's first row
  int column = wn * (Tr::dim / Tr::warps_n) + lane % 4 * 2;  ///< of the pair in the first tile of 8 columns

  [[nodiscard]] __device__ int row(int m, int half) const {
    return (wm * Tr::row_tiles + m) * 16 + half * 8 + lane / 4;
  }
};

/// acc [M 16, G 16] += a w over Steps times 16 rows of w, which lie as in memory, `pitch` bytes apart.
template <class T, int M, int G, int Steps, class Operand>
__device__ inline void multiply_down(float (&acc)[M][2 * G][4], Operand&& a, std::uint32_t w, int pitch) {
  multiply_ahead<T, M, G, Steps>(acc, a, [&](std::uint32_t(&b)[4], int k, int n) {
    load_matrix_transposed(b, w + std::uint32_t(k * 16 * pitch + n * 32));
  });
}

/// Lane l's part of a fragment's address in weights that lie as in memory: row l % 16, column 8 (l / 16).
__device__ inline std::uint32_t down_lane(int lane, int pitch) {
  return std::uint32_t(lane % 16 * pitch + lane / 16 * 16);
}

/// Of pairs of neighbouring numbers in two neighbouring tiles of 8 columns, lane t of four with columns 2 t of each: four
/// neighbours, columns 4 t to 4 t + 3 of the sixteen.
__device__ inline uint2 four_neighbours(std::uint32_t low, std::uint32_t high) {
  bool const upper = (threadIdx.x & 2) != 0, odd = (threadIdx.x & 1) != 0;
  std::uint32_t const other = __shfl_xor_sync(~0u, upper ? low : high, 2);
  std::uint32_t const first = upper ? other : low, second = upper ? high : other;
  std::uint32_t const next = __shfl_xor_sync(~0u, odd ? first : second, 1);
  return odd ? uint2{next, second} : uint2{first, next};
}

}  // namespace dm2::cuda::detail
