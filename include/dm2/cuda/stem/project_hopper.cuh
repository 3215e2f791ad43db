/// @file
/// The stem's projection of patches for a Hopper.
///
/// project.cuh's product with those of a warpgroup.
///
/// One thread brings steps of 64 inputs into a ring in shared memory, by tensor maps: of 192 patches, and the weights
/// of 192 columns. Three warpgroups multiply, 64 patches each and all columns, both operands where they lie. A step's
/// products take 1,152 cycles of a multiprocessor, and its patches, 24 KB, 1,310 at 4.2 TB/s. Tiny's 262 tiles are two
/// rounds of 132 multiprocessors but for two.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/project.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// The sizes of a block: three warpgroups that multiply, and one of which a thread copies.
template <int K, int N>
struct project_hopper_block {
  static constexpr int groups = 3, rows = 64 * groups, columns = 192, threads = 128 * (groups + 1);
  static constexpr int width = N, depth = K, steps = K / 64, across = (N + columns - 1) / columns;
  static constexpr int weight_offset = rows * 128, stage_bytes = weight_offset + columns * 128;
  static constexpr int stages = 4, alignment = 1024, shared_bytes = stages * stage_bytes + alignment;
  static constexpr int copier_registers = 32, registers = 160;
  static_assert(K % 64 == 0 && N % 8 == 0, "dm2::cuda::detail::stem::project_hopper_block: as project_layout");

  /// Tiles of that many patches.
  static constexpr int tiles(int patches) { return ((patches - 1) / rows + 1) * across; }
};

/// What the kernel reads, and where its sums go.
template <class Sink>
struct project_hopper_operands {
  tensor_map inputs, weights;  ///< tiles of 192 patches by 64 inputs, and of 192 rows of project_layout
  Sink sink;
  int rows, tiles;
};

/// One thread: the copies of all steps of the block's tiles. Past the last patch they are zeros; past the last column
/// they may be the next step's weights, whose sums nobody writes.
template <class Block, class Sink>
__device__ inline void copy_steps(project_hopper_operands<Sink> const& o, stage_ring<Block> ring) {
#pragma unroll 1
  for (int t = int(blockIdx.x); t < o.tiles; t += int(gridDim.x)) {
    int const row = t / Block::across * Block::rows, column = t % Block::across * Block::columns;
#pragma unroll 1
    for (int s = 0; s < Block::steps; ++s) {
      ring.claim(Block::stage_bytes);
      ring.copy(0, o.inputs, row, s * 64);
      ring.copy(Block::weight_offset, o.weights, s * Block::width + column, 0);
      ring.advance();
    }
  }
}

/// sums = a tile's product, of the warpgroup's patches. A step is given back when the next one's products are under
/// way.
template <class Block, class T>
__device__ __forceinline__ void multiply_steps(float (&sums)[96], stage_ring<Block>& ring, int group, int lane) {
  stage_ring<Block> before = ring;
  hold(sums);
#pragma unroll 1
  for (int s = 0; s < Block::steps; ++s) {
    ring.wait();
    std::uint64_t const a = product_operand(ring.bytes() + unsigned(group * 64 * 128));
    std::uint64_t const b = product_operand(ring.bytes() + unsigned(Block::weight_offset));
    fence_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply_wide<T>(sums, further(a, k), further(b, k));
    commit_products();
    ring.advance();
    if (s == 0) continue;
    wait_products<1>();
    before.release(lane);
    before.advance();
  }
  wait_products<0>();
  hold(sums);
  before.release(lane);
}

/// A thread's sums into the sink, from (row, column) of its warp on, six tiles of columns at a time: what the sink
/// adds to them is on its way together. Addresses are computed here, not kept in registers through the products.
template <class Block, class Sink>
__device__ inline void write_sums(float const (&sums)[96], Sink const& sink, int row, int column, int rows, int lane) {
  constexpr int batch = 6;
  hide(row), hide(column);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int const r = row + fragment::row(lane, half);
    if (r >= rows) continue;
#pragma unroll
    for (int first = 0; first < Block::columns / 8; first += batch) {
      auto const each = [&](auto const& f) {
#pragma unroll
        for (int n = 0; n < batch; ++n) {
          int const c = column + (first + n) * 8 + fragment::column(lane), at = (first + n) * 4 + half * 2;
          if (Block::width % Block::columns == 0 || c < Block::width) f(n, c, make_float2(sums[at], sums[at + 1]));
        }
      };
      typename Sink::addends a[batch];
      each([&](int n, int c, float2) { a[n] = sink.read(r, c); });
      each([&](int n, int c, float2 v) { sink(r, c, v, a[n]); });
    }
  }
}

/// Blocks go through the tiles of 192 patches and 192 columns.
template <class Block, class T, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    project_hopper_kernel(__grid_constant__ project_hopper_operands<Sink> const o) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Block::stages];  // has_hopper_code() finds it
    let_next_start();
    stage_ring<Block> ring{shared_address(align_shared<Block::alignment>(dynamic_shared())), shared_address(barriers)};
    ring.init();
    wait_for_previous();
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0), lane = int(threadIdx.x) % 32;
    if (warp / 4 == Block::groups) {
      release_registers<Block::copier_registers>();
      if (threadIdx.x == 128 * Block::groups) copy_steps<Block>(o, ring);
      return;
    }
    claim_registers<Block::registers>();
#pragma unroll 1
    for (int t = int(blockIdx.x); t < o.tiles; t += int(gridDim.x)) {
      float sums[96] = {};
      multiply_steps<Block, T>(sums, ring, warp / 4, lane);
      write_sums<Block>(sums, o.sink, t / Block::across * Block::rows + warp * 16, t % Block::across * Block::columns,
                        o.rows, lane);
    }
  }
}

/// Launches the product of `rows` patches; false where the device or the build has it not.
template <int K, int N, class T, class Sink>
bool launch_project_hopper(cudaStream_t stream, device_properties const& device, T const* a, T const* weights,
                           Sink const& sink, int rows, bool early = false) {
  using block = project_hopper_block<K, N>;
  auto* const kernel = project_hopper_kernel<block, T, Sink>;
  char const* const name = "stem: projection";
  int const tiles = block::tiles(rows);
  if (device.major != 9 || block::shared_bytes + 1024 > device.shared_per_block || !has_hopper_code(name, kernel))
    return false;
  launch_shape const shape{unsigned(std::min(tiles, device.multiprocessors)), block::threads, block::shared_bytes,
                           early};
  launch(name, kernel, shape, stream,
         project_hopper_operands<Sink>{
             .inputs = make_tensor_map(a, std::size_t(rows), K, {block::rows, 64, true}),
             .weights = make_tensor_map(weights, std::size_t(block::steps) * N, 64, {block::columns, 64, false}),
             .sink = sink,
             .rows = rows,
             .tiles = tiles});
  return true;
}

}  // namespace dm2::cuda::detail::stem
