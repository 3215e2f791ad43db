/// @file
/// The stem's projection of patches in training, for a Hopper.
///
/// stem/project.cuh's product with those of a warpgroup. One thread brings steps of 64 inputs, a pixel, into a ring in
/// shared memory, by tensor maps: of 192 patches, and the weights of 192 columns. Three warpgroups multiply, 64 patches
/// each and all columns: 96 registers of a thread. BatchNorm and ReLU are applied to the patches on their way into
/// registers, as the left operand; nothing is written back to shared memory.
///
/// A step's products take 1,152 cycles; shared memory, 144 KB in and out, as many; and device memory, 24 KB, 1,310 at
/// 4.2 TB/s. Tiny's 262 tiles are two rounds of 132 multiprocessors but for two; each reads the weights, 1.6 MB, from
/// L2: as many bytes as the patches have.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// The sizes of a block: three warpgroups that multiply, and one of which a thread copies.
template <class G>
struct project_hopper_block {
  static constexpr int groups = 3, rows = 64 * groups, columns = 192, threads = 128 * (groups + 1);
  static constexpr int dim = G::dim, depth = G::depth, steps = depth / 64;
  static constexpr int tile_bytes = 64 * 128, weight_offset = groups * tile_bytes;
  static constexpr int stages = 4, stage_bytes = weight_offset + columns / 64 * tile_bytes, alignment = 1024;
  static constexpr int shared_bytes = stages * stage_bytes + alignment;
  static constexpr int copier_registers = 32, registers = 160;
  static constexpr int column_blocks = (dim + columns - 1) / columns;
  static_assert(G::hidden == 64 && dim % 8 == 0 && shared_bytes + 1024 <= 227 * 1024,
                "dm2::cuda::detail::stem_train::project_hopper_block: 64 channels, even rows");
  /// How the weights lie: [input, column].
  using layout = stem::plain_layout<G::side * G::side, G::hidden, dim>;
};

/// What the kernel reads, and where its sums go.
template <class Sink>
struct project_hopper_operands {
  tensor_map raw, weights;  ///< tiles of 192 patches, and of 64 inputs, by 64 columns
  batch_norm norm;
  Sink sink;
  int rows, tiles;
};

/// One thread: the copies of all steps of the block's tiles. What is outside of either matrix is zeros.
template <class Block, class Sink>
__device__ inline void copy_inputs(project_hopper_operands<Sink> const& o, stage_ring<Block> ring) {
#pragma unroll 1
  for (int t = int(blockIdx.x); t < o.tiles; t += int(gridDim.x)) {
    int const row = t / Block::column_blocks * Block::rows, column = t % Block::column_blocks * Block::columns;
#pragma unroll 1
    for (int s = 0; s < Block::steps; ++s) {
      ring.claim(Block::stage_bytes);
      ring.copy(0, o.raw, row, s * 64);
#pragma unroll
      for (int j = 0; j < Block::columns / 64; ++j)
        ring.copy(Block::weight_offset + j * Block::tile_bytes, o.weights, s * 64, column + j * 64);
      ring.advance();
    }
  }
}

/// BatchNorm and ReLU of fragments whose columns are the 64 channels: the lane has 16 of them.
struct column_activations {
  float scale[16], shift[16];

  __device__ column_activations(batch_norm const& norm, int lane) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float2 const a = norm.affine(i / 2 * 8 + fragment::column(lane) + i % 2);
      scale[i] = a.x, shift[i] = a.y;
    }
  }
  /// Fragment k of 4.
  template <class T>
  __device__ void apply(std::uint32_t (&a)[4], int k) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const at = k * 4 + i / 2 * 2;
      float2 const x = unpack<T>(a[i]);
      a[i] = pack_relu<T>(fmaf(x.x, scale[at], shift[at]), fmaf(x.y, scale[at + 1], shift[at + 1]));
    }
  }
};

/// sums += a step. `from` is where the lane points at the first fragment, but for its piece; fragments are read while
/// the ones before are multiplied.
template <class Block, class T>
__device__ __forceinline__ void multiply_step(float (&sums)[96], std::uint32_t from, std::uint32_t weights,
                                              column_activations const& activations, int lane) {
  std::uint64_t const b = operand_down(weights, Block::tile_bytes);
  std::uint32_t a[2][4];
  auto const load = [&](int k) {
    load_matrix(a[k % 2], from + unsigned(((k * 2 + lane / 16) ^ lane % 8) * 16));
    activations.apply<T>(a[k % 2], k);
  };
  load(0);
  hold(sums);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    fence_products();
    multiply_wide_down<T>(sums, a[k % 2], further_down(b, k));
    commit_products();
    if (k < 3) {
      wait_products<1>();  // the one before this, whose fragment gives way
      load(k + 1);
    }
  }
  wait_products<0>();
  hold(sums);
}

/// A thread's sums into the sink, from (row, column) of its warp on. Addresses are computed here, not kept in registers
/// through the products.
template <class Block, class Sink>
__device__ inline void write_sums(float const (&sums)[96], Sink const& sink, int row, int column, int rows, int lane) {
  hide(row), hide(column);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int const r = row + fragment::row(lane, half);
    if (r >= rows) continue;
#pragma unroll
    for (int n = 0; n < Block::columns / 8; ++n) {
      int const c = column + n * 8 + fragment::column(lane);
      if (c < Block::dim) sink(r, c, make_float2(sums[n * 4 + half * 2], sums[n * 4 + half * 2 + 1]));
    }
  }
}

/// Blocks go through the tiles of 192 patches and 192 columns.
template <class Block, class T, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    project_hopper_kernel(__grid_constant__ project_hopper_operands<Sink> const o) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Block::stages];  // has_hopper_code() finds it
    unsigned char* const memory = align_shared<Block::alignment>(dynamic_shared());
    stage_ring<Block> ring{shared_address(memory), shared_address(barriers)};
    ring.init();
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0), lane = int(threadIdx.x) % 32;
    if (warp / 4 == Block::groups) {
      release_registers<Block::copier_registers>();
      if (threadIdx.x == 128 * Block::groups) copy_inputs<Block>(o, ring);
      return;
    }
    claim_registers<Block::registers>();
    column_activations const activations{o.norm, lane};
#pragma unroll 1
    for (int t = int(blockIdx.x); t < o.tiles; t += int(gridDim.x)) {
      float sums[96] = {};
#pragma unroll 1
      for (int s = 0; s < Block::steps; ++s) {
        ring.wait();
        multiply_step<Block, T>(sums, ring.bytes() + unsigned((warp * 16 + lane % 16) * 128),
                                ring.bytes() + unsigned(Block::weight_offset), activations, lane);
        ring.release(lane);
        ring.advance();
      }
      write_sums<Block>(sums, o.sink, t / Block::column_blocks * Block::rows + warp * 16,
                        t % Block::column_blocks * Block::columns, o.rows, lane);
    }
  }
}

/// Tiles of that many patches.
template <class Block>
constexpr int project_hopper_tiles(int rows) {
  return ((rows - 1) / Block::rows + 1) * Block::column_blocks;
}

/// Whether the device has it, and the tiles are enough for a third of it.
template <class G, class T, class Sink>
bool project_hopper_fits(device_properties const& device, int rows) {
  using block = project_hopper_block<G>;
  return device.major == 9 && block::shared_bytes + 1024 <= device.shared_per_block &&
         3 * project_hopper_tiles<block>(rows) >= device.multiprocessors &&
         has_hopper_code("stem: projection", project_hopper_kernel<block, T, Sink>);
}

/// Launches it: `rows` patches as the third convolution leaves them, weights in project_hopper_block's layout.
template <class G, class T, class Sink>
void launch_project_hopper(cudaStream_t stream, int multiprocessors, T const* raw, T const* weights,
                           batch_norm const& norm, Sink const& sink, int rows) {
  using block = project_hopper_block<G>;
  int const tiles = project_hopper_tiles<block>(rows);
  launch("stem: projection", project_hopper_kernel<block, T, Sink>,
         {unsigned(std::min(tiles, multiprocessors)), block::threads, block::shared_bytes}, stream,
         project_hopper_operands<Sink>{
             .raw = make_tensor_map(raw, std::size_t(rows), block::depth, {block::rows, 64, true}),
             .weights = make_tensor_map(weights, std::size_t(block::depth), block::dim, {64, 64, true}),
             .norm = norm,
             .sink = sink,
             .rows = rows,
             .tiles = tiles});
}

}  // namespace dm2::cuda::detail::stem_train
