/// @file
/// Project-add-norm's backward as one kernel on tensor cores.
///
/// Through the input projection, the norm, the residual addition and the output projection of a tile of rows, whose
/// normed rows' gradient never leaves the block.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/project_add_norm/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// The kernel's constants: T the operands' type, D channels of the residual stream, K those of g, N those of y, Limit
/// bytes of shared memory that a block may have. A block takes 128 rows, a warp 32 rows and half the columns.
template <class T, int D, int K, int N, int Limit>
struct backward_tensor_traits {
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

/// A block's places in shared memory.
template <class Tr>
struct backward_tensor_layout {
  std::uint32_t stages, slot0;
  unsigned char *normed, *rounded;  ///< tiles [rows, D]; the first where the first product's operands were
  float *row_sums, *column_sums;    ///< [warps_n, rows], [warps_m, D]

  __device__ explicit backward_tensor_layout(unsigned char* base)
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

/// A thread's place, and the first of its pair of columns.
template <class Tr>
struct backward_tensor_place : tile_place<Tr> {
  int column = this->wn * (Tr::dim / Tr::warps_n) + fragment::column(this->lane);  ///< of the first tile of 8 columns
};

/// acc [M 16, G 16] += a w over Steps times 16 rows of w, which lie as in memory, `pitch` bytes apart.
template <class T, int M, int G, int Steps, class Operand>
__device__ inline void multiply_down(float (&acc)[M][2 * G][4], Operand&& a, std::uint32_t w, int pitch) {
  multiply_ahead<T, M, G, Steps>(acc, a, [&](std::uint32_t(&b)[4], int k, int n) {
    load_matrix_transposed(b, w + std::uint32_t(k * 16 * pitch + n * 32));
  });
}

/// Of pairs of neighbouring numbers in two neighbouring tiles of 8 columns, lane t of four with columns 2 t of each:
/// four neighbours, columns 4 t to 4 t + 3 of the sixteen.
__device__ inline uint2 four_neighbours(std::uint32_t low, std::uint32_t high) {
  bool const upper = (threadIdx.x & 2) != 0, odd = (threadIdx.x & 1) != 0;
  std::uint32_t const other = __shfl_xor_sync(~0u, upper ? low : high, 2);
  std::uint32_t const first = upper ? other : low, second = upper ? high : other;
  std::uint32_t const next = __shfl_xor_sync(~0u, odd ? first : second, 1);
  return odd ? uint2{next, second} : uint2{first, next};
}

template <class Tr>
__device__ inline void load_out(backward_arguments<typename Tr::element> const& p, backward_tensor_layout<Tr> const& at,
                                int j) {
  if (j < Tr::chunks)
    copy_rows<Tr::chunk, Tr::chunk_pitch, Tr::dim, Tr::inner, Tr::threads, false>(at.slot(j), p.out + j * Tr::chunk, 0,
                                                                                  Tr::dim);
}

/// Columns [64 step, 64 step + 64) of the block's rows of dy; zeros past the last column and row.
template <class Tr>
__device__ inline void load_dy(backward_arguments<typename Tr::element> const& p, std::uint32_t to, int step) {
  int const row = int(threadIdx.x) / 8, column = step * Tr::depth + int(threadIdx.x) % 8 * 8;
  int const first = int(blockIdx.x) * Tr::rows + row;
  bool const inside = Tr::wide % Tr::depth == 0 || column < Tr::wide;
  to += std::uint32_t(row * Tr::depth_pitch + int(threadIdx.x) % 8 * 16);
#pragma unroll
  for (int r = 0; r < Tr::rows; r += Tr::threads / 8)
    copy_async(to + std::uint32_t(r * Tr::depth_pitch), p.dy + std::size_t(first + r) * Tr::wide + column,
               inside && first + r < p.count);
}

/// acc = dy in for the block's rows. Ends with the first chunk of the next weights under way.
template <class Tr>
__device__ inline void normed_gradient(float (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                       backward_arguments<typename Tr::element> const& p,
                                       backward_tensor_layout<Tr> const& at) {
  using T = typename Tr::element;
  backward_tensor_place<Tr> const place;
  auto const load = [&](int step) {
    if (step < Tr::steps) {
      std::uint32_t const to = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
      load_dy<Tr>(p, to, step);
      copy_rows<Tr::dim, Tr::dim_pitch, Tr::depth, Tr::dim, Tr::threads, false>(
          to + std::uint32_t(Tr::rows * Tr::depth_pitch), p.in, step * Tr::depth, Tr::wide);
    } else if (step == Tr::steps) {
      load_out<Tr>(p, at, 0);
    }
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < Tr::stages - 1; ++s) load(s);
  std::uint32_t const a_lane = place.left(Tr::depth_pitch);
  std::uint32_t const w_lane = std::uint32_t(Tr::rows * Tr::depth_pitch + place.wn * Tr::dim) +
                               fragment::left_operand(place.lane, Tr::dim_pitch);
  for (int step = 0; step < Tr::steps; ++step) {
    wait_copies<Tr::stages - 2>();
    __syncthreads();
    load(step + Tr::stages - 1);
    std::uint32_t const stage = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
    streamed_rows<Tr::row_tiles, Tr::depth / 16> rows{stage + a_lane, Tr::depth_pitch};
    multiply_down<T, Tr::row_tiles, Tr::dim_groups, Tr::depth / 16>(acc, rows, stage + w_lane, Tr::dim_pitch);
  }
}

/// Sums of acc x rstd: over rows, to column_sums, and times the norm's weight over columns, to row_sums.
template <class Tr>
__device__ inline void norm_sums(float const (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                 backward_arguments<typename Tr::element> const& p,
                                 backward_tensor_layout<Tr> const& at) {
  backward_tensor_place<Tr> const place;
  float columns[2 * Tr::dim_groups][2] = {};
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    bool const inside = place.first + row < p.count;
    float const rstd = inside ? p.rstd[place.first + row] : 0.f;
    float const* const x = p.residual + std::size_t(place.first + row) * Tr::dim + place.column;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2 * Tr::dim_groups; ++n) {
      float2 v{0, 0};
      if (inside) v = *reinterpret_cast<float2 const*>(x + n * 8);
      float2 const w = *reinterpret_cast<float2 const*>(p.norm + place.column + n * 8);
      float const low = acc[m][n][half * 2] * (v.x * rstd), high = acc[m][n][half * 2 + 1] * (v.y * rstd);
      columns[n][0] += low, columns[n][1] += high;
      sum = fmaf(low, w.x, fmaf(high, w.y, sum));
    }
    sum = sum_over_row(sum);
    if (fragment::leads_row(place.lane)) at.row_sums[place.wn * Tr::rows + row] = sum;
  });
#pragma unroll
  for (int n = 0; n < 2 * Tr::dim_groups; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float const sum = sum_over_column(columns[n][i]);
      if (place.lane < 4) at.column_sums[place.wm * Tr::dim + place.column + n * 8 + i] = sum;
    }
}

/// The residual's gradient with the norm's, to memory, and both tiles that products read, to shared memory.
template <class Tr>
__device__ inline void residual_gradient(float const (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                         backward_arguments<typename Tr::element> const& p,
                                         backward_tensor_layout<Tr> const& at) {
  using T = typename Tr::element;
  backward_tensor_place<Tr> const place;
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    bool const inside = place.first + row < p.count;
    float const rstd = inside ? p.rstd[place.first + row] : 0.f;
    float const mean = (at.row_sums[row] + at.row_sums[Tr::rows + row]) * (1.f / Tr::dim);
    std::size_t const from = std::size_t(place.first + row) * Tr::dim + std::size_t(place.column);
    int const to = row * Tr::dim_pitch + place.column * 2;
#pragma unroll
    for (int n = 0; n < 2 * Tr::dim_groups; ++n) {
      float2 x{0, 0}, d{0, 0};
      if (inside) {
        x = *reinterpret_cast<float2 const*>(p.residual + from + n * 8);
        d = *reinterpret_cast<float2 const*>(p.dresidual + from + n * 8);
      }
      float2 const w = *reinterpret_cast<float2 const*>(p.norm + place.column + n * 8);
      x.x *= rstd, x.y *= rstd;
      d.x = fmaf(rstd, fmaf(-mean, x.x, acc[m][n][half * 2] * w.x), d.x);
      d.y = fmaf(rstd, fmaf(-mean, x.y, acc[m][n][half * 2 + 1] * w.y), d.y);
      if (inside) *reinterpret_cast<float2*>(p.dresidual + from + n * 8) = d;
      *reinterpret_cast<std::uint32_t*>(at.rounded + to + n * 16) = pack<T>(d.x, d.y);
      *reinterpret_cast<std::uint32_t*>(at.normed + to + n * 16) = pack<T>(x.x * w.x, x.y * w.y);
    }
  });
}

/// A tile [rows, D] from shared memory to the block's rows of a matrix.
template <class Tr>
__device__ inline void write_tile(unsigned char const* tile, typename Tr::element* to, int count) {
  constexpr int pieces = Tr::dim / 8;
  int const first = int(blockIdx.x) * Tr::rows;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < Tr::rows * pieces; i += Tr::threads) {
    int const row = i / pieces, piece = i % pieces;
    if (first + row < count)
      *reinterpret_cast<uint4*>(to + std::size_t(first + row) * Tr::dim + piece * 8) =
          *reinterpret_cast<uint4 const*>(tile + row * Tr::dim_pitch + piece * 16);
  }
}

/// dg = the rounded gradient out, chunk after chunk of dg's columns. Chunks 0 and 1 are under way.
template <class Tr>
__device__ inline void inner_gradient(backward_arguments<typename Tr::element> const& p,
                                      backward_tensor_layout<Tr> const& at) {
  using T = typename Tr::element;
  constexpr int M = Tr::row_tiles, G = Tr::chunk_groups, depth = Tr::dim / 16;
  backward_tensor_place<Tr> const place;
  std::uint32_t const a_at = shared_address(at.rounded) + place.left(Tr::dim_pitch);
  std::uint32_t kept[depth][M][4];
#pragma unroll
  for (int k = 0; k < depth; ++k)
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrix(kept[k][m], a_at + std::uint32_t(m * 16 * Tr::dim_pitch + k * 32));
  std::uint32_t const w_lane = std::uint32_t(place.wn * G * 32) + fragment::left_operand(place.lane, Tr::chunk_pitch);
  for (int j = 0; j < Tr::chunks; ++j) {
    wait_copies<1>();
    __syncthreads();
    load_out<Tr>(p, at, j + 2);
    commit_copies();
    float acc[M][2 * G][4] = {};
    multiply_down<T, M, G, depth>(
        acc, [&](int k) -> std::uint32_t const(&)[M][4] { return kept[k]; }, at.slot(j) + w_lane, Tr::chunk_pitch);
    for_each_row<M>([&](int m, int half) {
      int const row = place.first + place.row(m, half);
      T* const to = p.dg + std::size_t(row) * Tr::inner + j * Tr::chunk + place.tile_place<Tr>::column(G);
#pragma unroll
      for (int n = 0; n < G; ++n) {
        uint2 const v = four_neighbours(pack<T>(acc[m][2 * n][half * 2], acc[m][2 * n][half * 2 + 1]),
                                        pack<T>(acc[m][2 * n + 1][half * 2], acc[m][2 * n + 1][half * 2 + 1]));
        if (row < p.count) *reinterpret_cast<uint2*>(to + n * 16) = v;
      }
    });
  }
}

/// Grid: tiles of rows.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    backward_tensor_kernel(__grid_constant__ backward_arguments<typename Tr::element> const p) {
  backward_tensor_layout<Tr> const at{dynamic_shared()};
  {
    float acc[Tr::row_tiles][2 * Tr::dim_groups][4] = {};
    normed_gradient<Tr>(acc, p, at);
    __syncthreads();  // its operands' place is free
    load_out<Tr>(p, at, 1);
    commit_copies();
    norm_sums<Tr>(acc, p, at);
    __syncthreads();
    residual_gradient<Tr>(acc, p, at);
  }
  for (int c = int(threadIdx.x); c < Tr::dim; c += Tr::threads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < Tr::warps_m; ++w) sum += at.column_sums[w * Tr::dim + c];
    p.parts[std::size_t{blockIdx.x} * Tr::dim + std::size_t(c)] = sum;
  }
  __syncthreads();
  write_tile<Tr>(at.normed, p.normed, p.count);
  write_tile<Tr>(at.rounded, p.rounded, p.count);
  inner_gradient<Tr>(p, at);
}

}  // namespace dm2::cuda::detail::project_add_norm
