/// @file
/// A warp's rows in project-add-norm's backward for a Hopper.
///
/// Constants, arguments, and how a block goes through memory; then the norm's backward of the rows, in registers, and
/// how they are written.
#pragma once

#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/project_add_norm/hopper_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// T the operands' type, D channels of the residual stream, K those of g, N those of y, Groups warpgroups that
/// multiply, each 64 rows of a tile; one more copies. Keep: the residual rows stay in registers from their first use to
/// their second.
template <class T, int D, int K, int N, int Groups, bool Keep = Groups == 2 && D == 192>
struct backward_hopper_traits {
  using element = T;
  static constexpr int dim = D, inner = K, wide = N, groups = Groups;
  static constexpr bool keep = Keep;
  static constexpr int rows = 64 * Groups, threads = 128 * (Groups + 1);
  /// Registers of a thread that multiplies, and of one that copies: 64 K of them are the multiprocessor's.
  static constexpr int registers = Groups == 2 ? 240 : 160, copier_registers = Groups == 2 ? 24 : 32;
  static constexpr int parts = D / 192;  ///< of 192 columns, in the first product
  static constexpr int depth = 64;       ///< columns of dy in a stage: 128 bytes
  static constexpr int steps = (N + depth - 1) / depth;
  static constexpr int last_depth = (N - (steps - 1) * depth + 15) / 16;  ///< products of 16 columns in the last step
  static constexpr int chunk = 64;                                        ///< columns of dg at a time
  static constexpr int chunks = (K + chunk - 1) / chunk;

  /// A stage is 64 columns of a tile's dy and as many rows of the input projection's weights, or boxes of 32 columns of
  /// the residual rows, or of those and of their gradient, or the output projection's weights of some chunks.
  static constexpr int weight_bytes = 64 * 128;  ///< 64 rows and columns of the input projection
  static constexpr int box_bytes = rows * 128, boxes = D / 32;
  static constexpr int stage_bytes = (rows + D) * 128;
  static constexpr int boxes_at_once = std::max(stage_bytes / box_bytes / 2 * 2, 2);
  static constexpr int last_boxes = Keep ? 1 : 2;  ///< of the residual rows' second use: their gradient, and they
  static constexpr int columns_at_once = boxes_at_once / last_boxes;  ///< 32 times as many, in that use
  static constexpr int chunk_bytes = chunk * D * 2, chunks_at_once = stage_bytes / chunk_bytes;

  static constexpr int staging_bytes = 16 * 128;  ///< of a warp: 64 columns of 16 bits or 32 floats, on their way out
  static constexpr int sums_bytes = 4 * Groups * D * int(sizeof(float));  ///< the norm's gradient, of each warp's rows
  static constexpr int alignment = 1024, limit = most_shared_bytes - 256;
  static constexpr int stages = (limit - alignment - 4 * Groups * staging_bytes - sums_bytes) / stage_bytes;
  static constexpr int bytes = alignment + stages * stage_bytes + 4 * Groups * staging_bytes + sums_bytes;

  static constexpr bool possible = is_half<T> && (Groups == 2 ? D == 192 || D == 384 : Groups == 3 && D == 192) &&
                                   K > 0 && K % 8 == 0 && N > depth&& N % 8 == 0;
  static_assert(!possible || (stages >= 3 && boxes % boxes_at_once == 0 && chunks_at_once >= 1));
};

/// The maps' tiles are what comes as one copy: dy 64 columns of a tile's rows, in 64 rows and columns, residual and
/// gradient 32 columns of a tile's rows, out 64 columns of 192 rows; and what a warp writes at once: 32 columns of the
/// gradient, 64 of the others.
template <class T>
struct backward_hopper_arguments {
  tensor_map dy, in, residual, gradient, out, new_gradient, normed, rounded, dg;
  backward_arguments<T> plain;
};

/// One thread: fills stage after stage, in the order in which the others read them.
template <class Tr>
__device__ inline void copy_backward_hopper(backward_hopper_arguments<typename Tr::element> const& p,
                                            stage_ring<Tr> ring) {
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    int const first = tile * Tr::rows;
    for (int step = 0; step < Tr::steps; ++step, ring.advance()) {
      ring.claim(Tr::stage_bytes);
      ring.copy(0, p.dy, first, step * Tr::depth);
      for (int i = 0; i < Tr::dim / 64; ++i)
        ring.copy(Tr::rows * 128 + i * Tr::weight_bytes, p.in, step * Tr::depth, i * 64);
    }
    for (int box = 0; box < Tr::boxes; box += Tr::boxes_at_once, ring.advance()) {
      ring.claim(Tr::boxes_at_once * Tr::box_bytes);
      for (int i = 0; i < Tr::boxes_at_once; ++i) ring.copy(i * Tr::box_bytes, p.residual, first, (box + i) * 32);
    }
    for (int box = 0; box < Tr::boxes; box += Tr::columns_at_once, ring.advance()) {
      ring.claim(Tr::boxes_at_once * Tr::box_bytes);
      for (int i = 0; i < Tr::columns_at_once; ++i) {
        ring.copy(i * Tr::last_boxes * Tr::box_bytes, p.gradient, first, (box + i) * 32);
        if constexpr (!Tr::keep) ring.copy((i * 2 + 1) * Tr::box_bytes, p.residual, first, (box + i) * 32);
      }
    }
    for (int j = 0; j < Tr::chunks; j += Tr::chunks_at_once, ring.advance()) {
      int const here = min(Tr::chunks_at_once, Tr::chunks - j);
      ring.claim(here * Tr::chunk_bytes);
      for (int i = 0; i < here; ++i)
        for (int part = 0; part < Tr::parts; ++part)
          ring.copy(i * Tr::chunk_bytes + part * 192 * 128, p.out, part * 192, (j + i) * Tr::chunk);
    }
  }
}

/// A thread that multiplies: its place, and where its warp's 16 rows begin. It has two of them, 8 apart, and of each
/// tile of 8 columns two.
template <class Tr>
struct backward_hopper_place {
  int group, warp, lane;   ///< warpgroup, warp in it, lane in that
  unsigned char* memory;   ///< the stages
  unsigned char* staging;  ///< the warp's
  float* sums;             ///< the warp's, of the norm's gradient: those that a lane makes, box after box
  int first;               ///< row

  [[nodiscard]] __device__ int row() const { return first + fragment::row(lane); }
  [[nodiscard]] __device__ int column() const { return fragment::column(lane); }
  /// The warp's rows of a box that stands `place` bytes into the ring's stage.
  [[nodiscard]] __device__ unsigned char const* rows_of(stage_ring<Tr> const& ring, int place) const {
    return memory + ring.stage * Tr::stage_bytes + place + (group * 64 + warp * 16) * 128;
  }
  /// Bytes to a thread's pair of floats in tile i of 8 columns, swizzled, and of 16-bit numbers.
  [[nodiscard]] __device__ int pair(int i, int half) const {
    return fragment::row(lane, half) * 128 + ((i * 2 + fragment::quarter(lane) / 2) ^ fragment::row(lane)) * 16 +
           lane % 2 * 8;
  }
  [[nodiscard]] __device__ int short_pair(int i, int half) const {
    return fragment::row(lane, half) * 128 + (i ^ fragment::row(lane)) * 16 + fragment::column(lane) * 2;
  }
  /// Waits until the staging may be written; and starts the copy of what has been.
  __device__ void open_staging() const {
    if (lane == 0) wait_stores<0>();
    __syncwarp();
  }
  __device__ void send_staging(tensor_map const& map, int column_in_map, int count) const {
    fence_copies();
    __syncwarp();
    if (lane == 0) {
      if (first < count) store_box(map, first, column_in_map, shared_address(staging));
      commit_stores();
    }
  }
  /// Sends 64 columns of pairs(i, half), tile i of 8 columns, packed.
  template <class Pairs>
  __device__ __forceinline__ void send(tensor_map const& map, int column_in_map, int count, Pairs const& pairs) const {
    open_staging();
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(staging + short_pair(i, half)) = pairs(i, half);
    send_staging(map, column_in_map, count);
  }
};

/// The residual rows times their norms' factors, box after box.
template <class Tr>
struct kept_rows {
  float2 v[Tr::keep ? Tr::boxes : 1][4][2];
};

/// Adds a box's sums over the thread's rows to the warp's: lane 4 j + t has those of column j of the eight of lanes
/// that are t more than a multiple of 4.
template <class Tr>
__device__ __forceinline__ void add_box_sums(float (&v)[8], int box, backward_hopper_place<Tr> const& at) {
  exchange_halves<4, 16>(v, at.lane);
  exchange_halves<2, 8>(v, at.lane);
  exchange_halves<1, 4>(v, at.lane);
  at.sums[box * 32 + at.lane] += v[0];
}

/// means = of a row, the mean of acc times the normed row; the normed rows, rounded, and the norm's gradient's sums.
template <class Tr>
__device__ __forceinline__ void sum_normed(float (&means)[2], kept_rows<Tr>& kept, float const (&acc)[Tr::parts][96],
                                           float const (&rstd)[2],
                                           backward_hopper_arguments<typename Tr::element> const& p,
                                           stage_ring<Tr>& ring, backward_hopper_place<Tr> const& at) {
  using T = typename Tr::element;
  float sums[2] = {};
  std::uint32_t normed[8][2];
#pragma unroll
  for (int b = 0; b < Tr::boxes; ++b) {
    if (b % Tr::boxes_at_once == 0) ring.wait();
    unsigned char const* const rows = at.rows_of(ring, b % Tr::boxes_at_once * Tr::box_bytes);
    float columns[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const w = *reinterpret_cast<float2 const*>(p.plain.norm + b * 32 + i * 8 + at.column());
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 x = *reinterpret_cast<float2 const*>(rows + at.pair(i, half));
        float const* const du = &acc[b / 6][b % 6 * 16 + i * 4 + half * 2];
        x.x *= rstd[half], x.y *= rstd[half];
        if constexpr (Tr::keep) kept.v[b][i][half] = x;
        float const low = du[0] * x.x, high = du[1] * x.y;
        columns[i * 2] = half == 0 ? low : columns[i * 2] + low;
        columns[i * 2 + 1] = half == 0 ? high : columns[i * 2 + 1] + high;
        sums[half] = fmaf(low, w.x, fmaf(high, w.y, sums[half]));
        normed[b % 2 * 4 + i][half] = pack<T>(x.x * w.x, x.y * w.y);
      }
    }
    if ((b + 1) % Tr::boxes_at_once == 0) {
      fence_copies();
      ring.release(at.lane);
      ring.advance();
    }
    add_box_sums(columns, b, at);
    if (b % 2 == 1) at.send(p.normed, b / 2 * 64, p.plain.count, [&](int i, int half) { return normed[i][half]; });
    keep_order();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    means[half] = sum_over_row(sums[half]) * (1.f / Tr::dim);
  }
}

/// The residual's gradient with the norm's, to memory, and rounded: to memory and to a.
template <class Tr>
__device__ __forceinline__ void add_norm_gradient(std::uint32_t (&a)[Tr::dim / 16][4],
                                                  float const (&acc)[Tr::parts][96], kept_rows<Tr> const& kept,
                                                  float const (&means)[2], float const (&rstd)[2],
                                                  backward_hopper_arguments<typename Tr::element> const& p,
                                                  stage_ring<Tr>& ring, backward_hopper_place<Tr> at) {
  using T = typename Tr::element;
#pragma unroll
  for (int b = 0; b < Tr::boxes; ++b) {
    if constexpr (Tr::keep) hide(at.lane);  // its places are no registers between boxes
    if (b % Tr::columns_at_once == 0) ring.wait();
    unsigned char const* const rows = at.rows_of(ring, b % Tr::columns_at_once * Tr::last_boxes * Tr::box_bytes);
    at.open_staging();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const w = *reinterpret_cast<float2 const*>(p.plain.norm + b * 32 + i * 8 + at.column());
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 x, d = *reinterpret_cast<float2 const*>(rows + at.pair(i, half));
        if constexpr (Tr::keep) {
          x = kept.v[b][i][half];
        } else {
          x = *reinterpret_cast<float2 const*>(rows + Tr::box_bytes + at.pair(i, half));
          x.x *= rstd[half], x.y *= rstd[half];
        }
        float const* const du = &acc[b / 6][b % 6 * 16 + i * 4 + half * 2];
        d.x = fmaf(rstd[half], fmaf(-means[half], x.x, du[0] * w.x), d.x);
        d.y = fmaf(rstd[half], fmaf(-means[half], x.y, du[1] * w.y), d.y);
        *reinterpret_cast<float2*>(at.staging + at.pair(i, half)) = d;
        a[b * 2 + i / 2][i % 2 * 2 + half] = pack<T>(d.x, d.y);
      }
    }
    at.send_staging(p.new_gradient, b * 32, p.plain.count);
    if ((b + 1) % Tr::columns_at_once == 0) {
      ring.release(at.lane);
      ring.advance();
    }
    if (b % 2 == 1)
      at.send(p.rounded, b / 2 * 64, p.plain.count,
              [&](int i, int half) { return a[b / 2 * 4 + i / 2][i % 2 * 2 + half]; });
    keep_order();
  }
}

}  // namespace dm2::cuda::detail::project_add_norm
