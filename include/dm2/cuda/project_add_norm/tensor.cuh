/// @file
/// Project-add-norm as one kernel on tensor cores.
///
/// Output projection, residual addition, RMSNorm and the next input projection of a tile of rows, whose normed form
/// never leaves the block.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/project_add_norm/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// The kernel's constants: T the operands' type, D channels of the residual stream, K those of g (0: there is no output
/// projection), N those of y (0: y are the normed rows), U units whose sums of squares scale each half of g (0: g is
/// taken as it is), Rows of a block, Limit bytes of shared memory that a block may have.
template <class T, int D, int K, int N, int U, int Rows, int Limit>
struct tensor_traits {
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

/// A block's places in shared memory.
template <class Tr>
struct tensor_layout {
  std::uint32_t stages, slot0, normed;
  float *rho, *sums;

  __device__ explicit tensor_layout(unsigned char* base)
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

template <class Tr>
__device__ inline void load_chunk(arguments<typename Tr::element> const& p, tensor_layout<Tr> const& at, int j) {
  if constexpr (Tr::wide != 0)
    if (j < Tr::chunks)
      copy_rows<Tr::dim, Tr::dim_pitch, Tr::chunk, Tr::dim, Tr::threads, true>(at.slot(j), p.in, j * Tr::chunk,
                                                                               Tr::wide);
}

/// acc = g out^T for the block's rows. Ends with the first chunk of the next weights under way.
template <class Tr>
__device__ inline void first_product(float (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                     arguments<typename Tr::element> const& p, tensor_layout<Tr> const& at) {
  using T = typename Tr::element;
  tile_place<Tr> const place;
  auto const load = [&](int step) {
    if (step < Tr::steps) {
      std::uint32_t const to = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
      copy_rows<Tr::depth, Tr::depth_pitch, Tr::rows, Tr::inner, Tr::threads, false>(to, p.g + step * Tr::depth,
                                                                                     place.first, p.count);
      copy_rows<Tr::depth, Tr::depth_pitch, Tr::dim, Tr::inner, Tr::threads, true>(
          to + std::uint32_t(Tr::rows * Tr::depth_pitch), p.out + step * Tr::depth, 0, Tr::dim);
    } else if (step == Tr::steps) {
      load_chunk<Tr>(p, at, 0);
    }
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < Tr::stages - 1; ++s) load(s);
  if constexpr (Tr::units != 0) {
    for (int i = int(threadIdx.x); i < 2 * Tr::rows; i += Tr::threads)
      at.rho[i] = factor_of_direction<Tr::inner / 2, Tr::units>(p.squares, place.first + i / 2, i % 2, p.count);
  }
  std::uint32_t const a_lane = place.left(Tr::depth_pitch);
  std::uint32_t const w_lane = std::uint32_t(Tr::rows * Tr::depth_pitch) + place.right(Tr::dim_groups, Tr::depth_pitch);
  for (int step = 0; step < Tr::steps; ++step) {
    wait_copies<Tr::stages - 2>();
    __syncthreads();
    load(step + Tr::stages - 1);
    if constexpr (Tr::units != 0) {
      if (step == Tr::steps / 2)
        for_each_row<Tr::row_tiles>([&](int m, int half) {
          float const* const rho = at.rho + 2 * place.row(m, half);
          float const ratio = rho[0] / rho[1];
#pragma unroll
          for (int n = 0; n < 2 * Tr::dim_groups; ++n) acc[m][n][half * 2] *= ratio, acc[m][n][half * 2 + 1] *= ratio;
        });
    }
    std::uint32_t const stage = at.stages + std::uint32_t(step % Tr::stages * Tr::stage_bytes);
    streamed_rows<Tr::row_tiles, Tr::depth / 16> rows{stage + a_lane, Tr::depth_pitch};
    multiply_steps<T, Tr::row_tiles, Tr::dim_groups, Tr::depth / 16>(acc, rows, stage + w_lane, Tr::depth_pitch);
  }
}

/// acc becomes the new residual rows, which are written; of each row the sum of the squares of a warp's columns goes to
/// at.sums.
template <class Tr>
__device__ inline void add_residual(float (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                    arguments<typename Tr::element> const& p, tensor_layout<Tr> const& at,
                                    tile_place<Tr> const& place) {
  int const column = place.column(Tr::dim_groups);
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    bool const inside = place.first + row < p.count;
    std::size_t const at_row = std::size_t(place.first + row) * Tr::dim;
    float const scale = Tr::units == 0 ? 1.f : at.rho[2 * row + 1];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Tr::dim_groups; ++n) {
      float(&low)[4] = acc[m][2 * n];
      float(&high)[4] = acc[m][2 * n + 1];
      float4 v{0, 0, 0, 0};
      if (inside) v = *reinterpret_cast<float4 const*>(p.before + at_row + column + n * 16);
      if constexpr (Tr::inner != 0) {
        if (p.out_bias != nullptr) {
          float4 const b = *reinterpret_cast<float4 const*>(p.out_bias + column + n * 16);
          v.x += b.x, v.y += b.y, v.z += b.z, v.w += b.w;
        }
        v.x = fmaf(low[half * 2], scale, v.x), v.y = fmaf(low[half * 2 + 1], scale, v.y);
        v.z = fmaf(high[half * 2], scale, v.z), v.w = fmaf(high[half * 2 + 1], scale, v.w);
        if (inside) *reinterpret_cast<float4*>(p.after + at_row + column + n * 16) = v;
      }
      low[half * 2] = v.x, low[half * 2 + 1] = v.y, high[half * 2] = v.z, high[half * 2 + 1] = v.w;
      sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    sum = sum_over_row(sum);
    if (fragment::leads_row(place.lane)) at.sums[place.wn * Tr::rows + row] = sum;
  });
}

/// acc's rows, normed, to shared memory, or, where nothing follows, to y.
template <class Tr>
__device__ inline void norm_rows(float const (&acc)[Tr::row_tiles][2 * Tr::dim_groups][4],
                                 arguments<typename Tr::element> const& p, tensor_layout<Tr> const& at,
                                 tile_place<Tr> const& place, unsigned char* normed) {
  using T = typename Tr::element;
  int const column = place.column(Tr::dim_groups);
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.row(m, half);
    float sum = 0;
#pragma unroll
    for (int w = 0; w < Tr::warps_n; ++w) sum += at.sums[w * Tr::rows + row];
    float const rstd = rsqrtf(sum * (1.f / Tr::dim) + p.eps);
    bool const inside = place.first + row < p.count;
    if (p.rstd != nullptr && inside && place.wn == 0 && fragment::leads_row(place.lane))
      p.rstd[place.first + row] = rstd;
#pragma unroll
    for (int n = 0; n < Tr::dim_groups; ++n) {
      float const(&low)[4] = acc[m][2 * n];
      float const(&high)[4] = acc[m][2 * n + 1];
      float4 const w = *reinterpret_cast<float4 const*>(p.norm + column + n * 16);
      uint2 const v{pack<T>(low[half * 2] * rstd * w.x, low[half * 2 + 1] * rstd * w.y),
                    pack<T>(high[half * 2] * rstd * w.z, high[half * 2 + 1] * rstd * w.w)};
      if constexpr (Tr::wide != 0) {
        *reinterpret_cast<uint2*>(normed + row * Tr::dim_pitch + (column + n * 16) * 2) = v;
      } else {
        if (inside) *reinterpret_cast<uint2*>(p.y + std::size_t(place.first + row) * Tr::dim + column + n * 16) = v;
      }
    }
  });
}

/// A chunk of y's columns from `first` on: acc + bias, rounded.
template <class Tr>
__device__ inline void write_chunk(float const (&acc)[Tr::row_tiles][2 * Tr::chunk_groups][4],
                                   arguments<typename Tr::element> const& p, tile_place<Tr> const& place, int first) {
  using T = typename Tr::element;
  for_each_row<Tr::row_tiles>([&](int m, int half) {
    int const row = place.first + place.row(m, half);
    if (row >= p.count) return;
#pragma unroll
    for (int n = 0; n < Tr::chunk_groups; ++n) {
      int const column = first + place.column(Tr::chunk_groups) + n * 16;
      if (column >= Tr::wide) continue;
      float4 b{0, 0, 0, 0};
      if (p.in_bias != nullptr) b = *reinterpret_cast<float4 const*>(p.in_bias + column);
      *reinterpret_cast<uint2*>(p.y + std::size_t(row) * Tr::wide + column) =
          uint2{pack<T>(acc[m][2 * n][half * 2] + b.x, acc[m][2 * n][half * 2 + 1] + b.y),
                pack<T>(acc[m][2 * n + 1][half * 2] + b.z, acc[m][2 * n + 1][half * 2 + 1] + b.w)};
    }
  });
}

/// y = normed in^T + bias, chunk after chunk of y's columns. Chunks 0 and 1 are under way.
template <class Tr>
__device__ inline void second_product(arguments<typename Tr::element> const& p, tensor_layout<Tr> const& at,
                                      tile_place<Tr> const& place) {
  using T = typename Tr::element;
  constexpr int M = Tr::row_tiles, G = Tr::chunk_groups, depth = Tr::dim / 16;
  std::uint32_t const a_at = at.normed + place.left(Tr::dim_pitch), w_lane = place.right(G, Tr::dim_pitch);
  std::uint32_t kept[Tr::keep_normed ? depth : 1][M][4];
  if constexpr (Tr::keep_normed) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < depth; ++k)
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrix(kept[k][m], a_at + std::uint32_t(m * 16 * Tr::dim_pitch + k * 32));
  }
  for (int j = 0; j < Tr::chunks; ++j) {
    wait_copies<1>();
    __syncthreads();
    load_chunk<Tr>(p, at, j + 2);
    commit_copies();
    float acc[M][2 * G][4] = {};
    std::uint32_t const w = at.slot(j) + w_lane;
    if constexpr (Tr::keep_normed)
      multiply_steps<T, M, G, depth>(
          acc, [&](int k) -> std::uint32_t const(&)[M][4] { return kept[k]; }, w, Tr::dim_pitch);
    else
      multiply_steps<T, M, G, depth>(acc, streamed_rows<M, depth>{a_at, Tr::dim_pitch}, w, Tr::dim_pitch);
    write_chunk<Tr>(acc, p, place, j * Tr::chunk);
  }
}

/// Grid: tiles of rows.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    tensor_kernel(__grid_constant__ arguments<typename Tr::element> const p) {
  unsigned char* const shared = dynamic_shared();
  tensor_layout<Tr> const at{shared};
  float acc[Tr::row_tiles][2 * Tr::dim_groups][4] = {};
  if constexpr (Tr::inner != 0) {
    first_product<Tr>(acc, p, at);
    __syncthreads();  // its operands' place is free
  } else {
    load_chunk<Tr>(p, at, 0);
    commit_copies();
  }
  load_chunk<Tr>(p, at, 1);
  commit_copies();
  tile_place<Tr> const place;
  add_residual<Tr>(acc, p, at, place);
  __syncthreads();
  norm_rows<Tr>(acc, p, at, place, shared + Tr::region_bytes + Tr::slot_bytes);
  if constexpr (Tr::wide != 0) second_product<Tr>(p, at, place);
}

}  // namespace dm2::cuda::detail::project_add_norm
