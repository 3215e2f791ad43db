/// @file
/// The gradient of the patches, for a Hopper.
///
/// project.cuh's product with those of a warpgroup. A block keeps the weights of four pixels in shared memory. Two
/// warpgroups go through tiles of 64 patches, each with a ring of its own, which a thread fills by tensor maps: the
/// tile's gradients of the grid, then the raw outputs of each pixel, 8 KB a stage. The gradients become fragments in
/// registers and serve all four pixels. A pixel's product is masked in registers; it takes the place of the raw numbers
/// in the ring and leaves from there, a warp 16 patches.
///
/// For a pixel of 64 patches Tiny's products take 384 cycles; shared memory, 56 KB in and out, 450; and device memory,
/// 16 KB, 880 at 4.2 TB/s. All blocks together read the grid's gradient 16 times, 19 MB from L2.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/project_hopper.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// [D, tap, channel].
template <int Taps, int Hidden, int D>
struct project_rows_layout {
  static constexpr std::size_t size = std::size_t(D) * Taps * Hidden;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    return (out * Taps + tap) * Hidden + channel;
  }
};

/// The sizes of a block: two warpgroups that multiply, and one of which two threads copy, one for each ring.
template <class G>
struct project_input_hopper_block {
  static constexpr int multipliers = 2, threads = 128 * (multipliers + 1), rows = 64, tile_bytes = rows * 128;
  static constexpr int dim = G::dim, depth = G::depth, taps = G::side * G::side;
  static constexpr int parts = (dim + 63) / 64, steps = (dim + 15) / 16;  ///< of 64 and of 16 numbers of the grid
  static constexpr int pixels = parts <= 3 ? 4 : 2, pixel_blocks = (taps + pixels - 1) / pixels;
  static constexpr int weight_bytes = pixels * parts * tile_bytes;
  static constexpr int groups = 1, stages = 8, stage_bytes = tile_bytes;  ///< of a warpgroup's ring
  static constexpr int alignment = 1024, shared_bytes = weight_bytes + multipliers * stages * stage_bytes + alignment;
  static constexpr int copier_registers = 24, registers = 240;
  static_assert(G::hidden == 64 && dim % 8 == 0 && parts <= 6 && shared_bytes + 1024 <= 227 * 1024,
                "dm2::cuda::detail::stem_train::project_input_hopper_block: 64 channels, even rows, weights that fit");
  using layout = project_rows_layout<taps, G::hidden, dim>;
};

/// What the kernel reads and writes.
struct project_input_hopper_operands {
  tensor_map dgrid, weights, raw;  ///< tiles of 64 rows and 64 columns
  tensor_map dz;                   ///< tiles of 16 rows
  batch_norm norm;
  float* sums;  ///< [parts, 2, hidden]
  int rows;
};

/// A warpgroup's tiles of 64 patches.
template <class Block>
struct own_tiles {
  int first, step, count;

  __device__ own_tiles(int group, int rows)
      : first{int(blockIdx.y) * Block::multipliers + group},
        step{int(gridDim.y) * Block::multipliers},
        count{(rows - 1) / Block::rows + 1} {}
};

/// One thread: the copies of the weights, of which `barrier` is told.
template <class Block>
__device__ inline void copy_own_weights(project_input_hopper_operands const& o, std::uint32_t to,
                                        std::uint32_t barrier) {
  arrive_expecting(barrier, Block::weight_bytes);
#pragma unroll 1
  for (int i = 0; i < Block::pixels * Block::parts; ++i)
    load_box(to + unsigned(i * Block::tile_bytes), o.weights, i % Block::parts * 64,
             (int(blockIdx.x) * Block::pixels + i / Block::parts) * 64, barrier);
}

/// One thread: the copies of all of a warpgroup's tiles. What is outside of either matrix is zeros.
template <class Block>
__device__ inline void copy_own_tiles(project_input_hopper_operands const& o, stage_ring<Block> ring,
                                      own_tiles<Block> const& tiles) {
  auto const copy = [&](tensor_map const& map, int row, int column) {
    ring.claim(Block::stage_bytes);
    ring.copy(0, map, row, column);
    ring.advance();
  };
#pragma unroll 1
  for (int t = tiles.first; t < tiles.count; t += tiles.step) {
#pragma unroll 1
    for (int j = 0; j < Block::parts; ++j) copy(o.dgrid, t * Block::rows, j * 64);
#pragma unroll 1
    for (int p = 0; p < Block::pixels; ++p) copy(o.raw, t * Block::rows, (int(blockIdx.x) * Block::pixels + p) * 64);
  }
}

/// ReLU's backward of a lane's 16 of 64 channels, and their sums.
struct column_masks : column_activations {
  using column_activations::column_activations;
  float one[16] = {}, two[16] = {};

  /// A pair of da, of channels number `at` and at + 1 of the lane's, where raw is BatchNorm's input: dz, rounded.
  template <class T>
  __device__ std::uint32_t apply(float2 da, std::uint32_t raw, int at) {
    float2 const x = unpack<stem_number<T>>(raw);
    bool const left = fmaf(x.x, scale[at], shift[at]) > 0, right = fmaf(x.y, scale[at + 1], shift[at + 1]) > 0;
    std::uint32_t const v = pack<T>(left ? da.x : 0.f, right ? da.y : 0.f);
    float2 const dz = unpack<T>(v);
    one[at] += dz.x, one[at + 1] += dz.y;
    two[at] = fmaf(dz.x, x.x, two[at]), two[at + 1] = fmaf(dz.y, x.y, two[at + 1]);
    return v;
  }
};

/// A thread of a warpgroup that multiplies.
template <class Block, class T>
struct patch_multiplier {
  project_input_hopper_operands const& o;
  stage_ring<Block> ring;
  unsigned char* stages;      ///< the ring's memory
  int warp, lane;             ///< of the warpgroup
  std::uint32_t written = 0;  ///< the barrier of the stage whose numbers are on their way out

  /// The tile's gradients as fragments.
  __device__ __forceinline__ void read_gradients(std::uint32_t (&a)[Block::steps][4]) {
#pragma unroll
    for (int j = 0; j < Block::parts; ++j) {
      ring.wait();
      std::uint32_t const from = ring.bytes() + unsigned((warp * 16 + lane % 16) * 128);
#pragma unroll
      for (int k = 4 * j; k < 4 * j + 4 && k < Block::steps; ++k)
        load_matrix(a[k], from + unsigned(((k % 4 * 2 + lane / 16) ^ lane % 8) * 16));
      ring.release(lane);
      ring.advance();
    }
  }
  /// dz of a pixel of the warp's 16 patches from `row` on.
  __device__ __forceinline__ void multiply(std::uint32_t const (&a)[Block::steps][4], std::uint32_t weights,
                                           column_masks& masks, int row, int column) {
    float c[32];
    std::uint64_t const b = operand_down(weights, Block::tile_bytes);
    fence_products();
#pragma unroll
    for (int k = 0; k < Block::steps; ++k) multiply_chunk_down<T>(c, a[k], further_down(b, k), k != 0);
    commit_products();
    ring.wait();
    std::uint32_t raw[16];  // read while the products run
    for_pairs([&](int i, std::uint32_t const& pair) { raw[i] = pair; });
    wait_products<0>();
    hold(c);
    for_pairs([&](int i, std::uint32_t& pair) {
      pair = masks.template apply<T>(make_float2(c[2 * i], c[2 * i + 1]), raw[i], i / 2 * 2);
    });
    leave(row, column);
  }
  /// The stage whose numbers have left is the ring's again; Newer: stores of the warp that may be under way.
  template <int Newer>
  __device__ __forceinline__ void release_written() {
    if (lane == 0 && written != 0) {
      wait_stores<Newer>();
      arrive(written);
    }
  }

 private:
  /// f(i, pair) for the 16 pairs of the lane's numbers in the stage, in the order of a product's: 32 lanes have 32
  /// banks.
  template <class F>
  __device__ __forceinline__ void for_pairs(F const& f) const {
    unsigned char* const at = stages + ring.stage * Block::stage_bytes;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      int const r = warp * 16 + fragment::row(lane, i % 2);
      f(i, *reinterpret_cast<std::uint32_t*>(at + r * 128 + (i / 2 ^ r % 8) * 16 + fragment::column(lane) * 2));
    }
  }
  __device__ __forceinline__ void leave(int row, int column) {
    fence_copies();
    __syncwarp();
    if (lane == 0) {
      store_box(o.dz, row, column, ring.bytes() + unsigned(warp * 16 * 128));
      commit_stores();
    }
    release_written<1>();
    written = ring.read();
    ring.advance();
  }
};

/// part [2, 64] = the sums of the warps of both warpgroups, in their order. All their threads call it; `staged` is
/// shared memory that nothing else uses.
template <class Block>
__device__ inline void add_masks(column_masks const& masks, float* staged, float* part) {
  int const thread = int(threadIdx.x), lane = thread % 32;
  float* const own = staged + thread / 4 * 128 + fragment::column(lane);
#pragma unroll
  for (int i = 0; i < 16; ++i) own[i / 2 * 8 + i % 2] = masks.one[i], own[64 + i / 2 * 8 + i % 2] = masks.two[i];
  barrier<128 * Block::multipliers>(0);
  if (thread >= 128) return;
  float total = 0;
  for (int i = 0; i < 32 * Block::multipliers; ++i) total += staged[i * 128 + thread];
  part[thread] = total;
}

/// As project_input_kernel. Block (4 pixels, share of the tiles).
template <class Block, class T>
__global__ void __launch_bounds__(Block::threads, 1)
    project_input_hopper_kernel(__grid_constant__ project_input_hopper_operands const o) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Block::multipliers * Block::stages + 1];  // has_hopper_code() finds it
    unsigned char* const memory = align_shared<Block::alignment>(dynamic_shared());
    std::uint32_t const weights = shared_address(memory);
    auto const stages_of = [&](int group) {
      return memory + Block::weight_bytes + group * Block::stages * Block::stage_bytes;
    };
    std::uint32_t const loaded = shared_address(barriers + 2 * Block::multipliers * Block::stages);
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0), lane = int(threadIdx.x) % 32;
    auto const ring_of = [&](int group) {
      return stage_ring<Block>{shared_address(stages_of(group)), shared_address(barriers + 2 * group * Block::stages)};
    };
    if (threadIdx.x == 0) init_phases(loaded, 1);
    for (int group = 0; group < Block::multipliers; ++group) ring_of(group).init();
    if (warp / 4 == Block::multipliers) {
      release_registers<Block::copier_registers>();
      int const group = warp % 4;
      if (lane != 0 || group >= Block::multipliers) return;
      if (group == 0) copy_own_weights<Block>(o, weights, loaded);
      copy_own_tiles<Block>(o, ring_of(group), own_tiles<Block>{group, o.rows});
      return;
    }
    claim_registers<Block::registers>();
    patch_multiplier<Block, T> own{o, ring_of(warp / 4), stages_of(warp / 4), warp % 4, lane};
    own_tiles<Block> const tiles{warp / 4, o.rows};
    column_masks masks{o.norm, lane};
    wait_phase(loaded, 0);
#pragma unroll 1
    for (int t = tiles.first; t < tiles.count; t += tiles.step) {
      std::uint32_t a[Block::steps][4];
      own.read_gradients(a);
#pragma unroll 1
      for (int p = 0; p < Block::pixels; ++p)
        own.multiply(a, weights + unsigned(p * Block::parts * Block::tile_bytes), masks,
                     t * Block::rows + warp % 4 * 16, (int(blockIdx.x) * Block::pixels + p) * 64);
    }
    own.template release_written<0>();
    barrier<128 * Block::multipliers>(0);  // nothing is copied any more
    add_masks<Block>(masks, reinterpret_cast<float*>(stages_of(0)),
                     o.sums + std::ptrdiff_t(blockIdx.y * gridDim.x + blockIdx.x) * 128);
  }
}

/// Shares of the tiles: about a block a multiprocessor.
template <class G>
int project_input_hopper_shares(int multiprocessors, int rows) {
  using block = project_input_hopper_block<G>;
  int const pairs = (rows - 1) / (block::rows * block::multipliers) + 1;
  return std::clamp(multiprocessors / block::pixel_blocks, 1, pairs);
}

/// Whether the device has it.
template <class G, class T>
bool project_input_hopper_runs(device_properties const& device) {
  using block = project_input_hopper_block<G>;
  return device.major == 9 && block::shared_bytes + 1024 <= device.shared_per_block &&
         has_hopper_code("stem: gradient of the patches", project_input_hopper_kernel<block, T>);
}

/// As launch_project_input, with weights in project_input_hopper_block's layout.
template <class G, class T>
int launch_project_input_hopper(cudaStream_t stream, int multiprocessors, project_input_operands<G, T> const& operands,
                                int rows) {
  using block = project_input_hopper_block<G>;
  unsigned const shares = unsigned(project_input_hopper_shares<G>(multiprocessors, rows));
  auto const count = std::size_t(rows);
  tile_shape const tile{block::rows, 64, true};
  launch("stem: gradient of the patches", project_input_hopper_kernel<block, T>,
         {dim3(block::pixel_blocks, shares), block::threads, block::shared_bytes}, stream,
         project_input_hopper_operands{
             .dgrid = make_tensor_map(operands.dgrid, count, block::dim, tile),
             .weights = make_tensor_map(operands.weights, std::size_t(block::dim), block::depth, tile),
             .raw = make_tensor_map(operands.raw, count, block::depth, tile),
             .dz = make_tensor_map<T>(operands.dz, count, block::depth, {16, 64, true}),
             .norm = operands.norm,
             .sums = operands.parts,
             .rows = rows});
  return block::pixel_blocks * int(shares);
}

}  // namespace dm2::cuda::detail::stem_train
