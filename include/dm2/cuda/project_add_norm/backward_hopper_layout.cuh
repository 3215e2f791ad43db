/// @file
/// The constants of the kernel of the gradients between two cores for a Hopper, its arguments, and how its block goes
/// through memory.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/backward_tile.cuh>
#include <dm2/cuda/project_add_norm/hopper_layout.cuh>

#include <algorithm>
#include <cstdint>

namespace dm2::cuda::detail {

/// T the operands' type, D channels of the residual stream, K those of g, N those of y, Groups warpgroups that multiply,
/// each 64 rows of a tile; one more copies. Keep: the residual rows stay in registers from their first use to their
/// second.
template <class T, int D, int K, int N, int Groups, bool Keep = Groups == 2 && D == 192>
struct between_backward_hopper_traits {
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
  static constexpr int alignment = 1024, limit = 232448 - 256;
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
struct between_backward_hopper_arguments {
  tensor_map dy, in, residual, gradient, out, new_gradient, normed, rounded, dg;
  between_backward_arguments<T> plain;
};

/// One thread: fills stage after stage, in the order in which the others read them.
template <class Tr>
__device__ inline void copy_between_backward(between_backward_hopper_arguments<typename Tr::element> const& p,
                                             between_ring<Tr> ring) {
  auto const claim = [&](int bytes) {
    wait_phase(ring.read(), ring.round ^ 1);
    arrive_expecting(ring.filled(), bytes);
  };
  auto const copy = [&](int place, tensor_map const& map, int row, int column) {
    load_box(ring.bytes() + std::uint32_t(place), map, row, column, ring.filled());
  };
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    int const first = tile * Tr::rows;
    for (int step = 0; step < Tr::steps; ++step, ring.advance()) {
      claim(Tr::stage_bytes);
      copy(0, p.dy, first, step * Tr::depth);
      for (int i = 0; i < Tr::dim / 64; ++i)
        copy(Tr::rows * 128 + i * Tr::weight_bytes, p.in, step * Tr::depth, i * 64);
    }
    for (int box = 0; box < Tr::boxes; box += Tr::boxes_at_once, ring.advance()) {
      claim(Tr::boxes_at_once * Tr::box_bytes);
      for (int i = 0; i < Tr::boxes_at_once; ++i) copy(i * Tr::box_bytes, p.residual, first, (box + i) * 32);
    }
    for (int box = 0; box < Tr::boxes; box += Tr::columns_at_once, ring.advance()) {
      claim(Tr::boxes_at_once * Tr::box_bytes);
      for (int i = 0; i < Tr::columns_at_once; ++i) {
        copy(i * Tr::last_boxes * Tr::box_bytes, p.gradient, first, (box + i) * 32);
        if constexpr (!Tr::keep) copy((i * 2 + 1) * Tr::box_bytes, p.residual, first, (box + i) * 32);
      }
    }
    for (int j = 0; j < Tr::chunks; j += Tr::chunks_at_once, ring.advance()) {
      int const here = min(Tr::chunks_at_once, Tr::chunks - j);
      claim(here * Tr::chunk_bytes);
      for (int i = 0; i < here; ++i)
        for (int part = 0; part < Tr::parts; ++part)
          copy(i * Tr::chunk_bytes + part * 192 * 128, p.out, part * 192, (j + i) * Tr::chunk);
    }
  }
}

}  // namespace dm2::cuda::detail
