/// @file
/// The constants of the kernel between two cores for a Hopper, its arguments, and how its block goes through memory.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// T the operands' type, D channels of the residual stream, K those of g (0: there is no output projection), N those of
/// y (0: y are the normed rows), U units whose sums of squares scale each half of g (0: g is taken as it is). Clusters of
/// two blocks that read their weights together took 163 us where single ones take 124 (Tiny, 50,432 rows).
template <class T, int D, int K, int N, int U>
struct between_hopper_traits {
  using element = T;
  static constexpr int dim = D, inner = K, wide = N, units = U;
  /// Warpgroups that multiply, each 64 rows of a tile; one more copies. Three, of 192 rows, took 124 us where two take
  /// 120 (Tiny, 50,432 rows): fewer stages are left to copy ahead into.
  static constexpr int groups = 2;
  static constexpr int rows = 64 * groups, threads = 128 * (groups + 1);
  /// Registers of a thread that multiplies, and of one that copies: 64 K of them are the multiprocessor's.
  static constexpr int registers = 240, copier_registers = 24;
  static constexpr int parts = D / 192;           ///< of 192 columns, in the first product
  static constexpr int depth = 64;                ///< columns of an operand in a stage: 128 bytes
  static constexpr int steps = (K + 63) / depth;  ///< of the first product
  static constexpr int result = N == 0 ? D : N;   ///< columns of y
  static constexpr int chunk = N == 0 ? 64 : 72;  ///< of them at a time: 72 divides them in the published networks
  static constexpr int chunks = (result + chunk - 1) / chunk;

  /// A stage is 64 columns of a tile's g and of the output projection's weights, or some columns of the residual rows,
  /// 32 a box, or the input projection's weights of a chunk.
  static constexpr int box_bytes = 64 * 128;  ///< 64 rows, of one warpgroup
  static constexpr int stage_bytes = (rows + D) * 128;
  static constexpr int boxes = D / 32;  ///< of residual columns, of a warpgroup
  static constexpr int boxes_at_once = stage_bytes / (groups * box_bytes);
  static constexpr int box_stages = (boxes + boxes_at_once - 1) / boxes_at_once;
  static constexpr int chunk_bytes = N == 0 ? 0 : chunk * D * 2;
  static constexpr int staging_bytes = 64 * chunk * 2;  ///< y's chunk on its way out, of a warpgroup
  static constexpr int alignment = 1024, limit = 232448 - 256;
  static constexpr int stages = (limit - alignment - groups * staging_bytes) / stage_bytes;
  static constexpr int bytes = alignment + stages * stage_bytes + groups * staging_bytes;

  static constexpr bool possible = is_half<T> && (D == 192 || D == 384) && K % 8 == 0 && N % 8 == 0 &&
                                   (K != 0 || N != 0) && (U == 0 || (K != 0 && K % 128 == 0));
  static_assert(!possible || (stages >= 3 && chunk_bytes <= stage_bytes));
};

/// The maps' tiles are what comes as one copy: g 64 columns of a tile's rows, out 64 of 192 weight rows, in 64 of a
/// chunk's weight rows, before and after 32 of a warpgroup's rows, y a chunk of a warpgroup's rows.
template <class T>
struct between_hopper_arguments {
  tensor_map g, out, in, before, after, y;
  between_arguments<T> plain;
};

/// Where a block is in its stages, which it goes round and round: everybody in the same order.
template <class Tr>
struct between_ring {
  std::uint32_t memory, barriers;  ///< shared addresses
  int stage = 0;
  unsigned round = 0;

  [[nodiscard]] __device__ std::uint32_t bytes() const { return memory + std::uint32_t(stage * Tr::stage_bytes); }
  /// Ends when the stage is filled, and when it is read.
  [[nodiscard]] __device__ std::uint32_t filled() const { return barriers + std::uint32_t(stage * 16); }
  [[nodiscard]] __device__ std::uint32_t read() const { return filled() + 8; }
  __device__ void advance() {
    if (++stage == Tr::stages) stage = 0, round ^= 1;
  }
  /// Waits until the copies into the stage have landed.
  __device__ void wait() const { wait_phase(filled(), round); }
  /// The warp does not read the stage any more.
  __device__ void release(int lane) const {
    __syncwarp();
    if (lane == 0) arrive(read());
  }
};

/// One thread: fills stage after stage, in the order in which the others read them.
template <class Tr>
__device__ inline void copy_between(between_hopper_arguments<typename Tr::element> const& p, between_ring<Tr> ring) {
  auto const claim = [&](int bytes) {
    wait_phase(ring.read(), ring.round ^ 1);
    arrive_expecting(ring.filled(), bytes);
  };
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    int const first = tile * Tr::rows;
    for (int step = 0; step < Tr::steps; ++step, ring.advance()) {
      claim(Tr::stage_bytes);
      load_box(ring.bytes(), p.g, first, step * Tr::depth, ring.filled());
      for (int part = 0; part < Tr::parts; ++part)
        load_box(ring.bytes() + std::uint32_t((Tr::rows + part * 192) * 128), p.out, part * 192, step * Tr::depth,
                 ring.filled());
    }
    for (int box = 0; box < Tr::boxes; box += Tr::boxes_at_once, ring.advance()) {
      int const here = min(Tr::boxes_at_once, Tr::boxes - box);
      claim(here * Tr::groups * Tr::box_bytes);
      for (int i = 0; i < here * Tr::groups; ++i)
        load_box(ring.bytes() + std::uint32_t(i * Tr::box_bytes), p.before, first + i % Tr::groups * 64,
                 (box + i / Tr::groups) * 32, ring.filled());
    }
    if constexpr (Tr::wide != 0)
      for (int j = 0; j < Tr::chunks; ++j, ring.advance()) {
        claim(Tr::chunk_bytes);
        for (int k = 0; k < Tr::dim / Tr::depth; ++k)
          load_box(ring.bytes() + std::uint32_t(k * Tr::chunk * 128), p.in, j * Tr::chunk, k * Tr::depth,
                   ring.filled());
      }
  }
}

}  // namespace dm2::cuda::detail
