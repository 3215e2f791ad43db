/// @file
/// The stem's 3 x 3 convolutions for a Hopper: one warpgroup only loads.
///
/// conv3_hopper.cuh's products, the work parted: one warpgroup of four brings tiles with their halo into a ring of six
/// in shared memory, three multiply and store. The products are the same, in the same order.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3_hopper.cuh>
#include <dm2/cuda/stem/tile_ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// How the launch parts the work.
inline constexpr conv3_roles inference_roles{1, 3, false};

/// The sizes of a block.
template <class G, conv3_roles F = inference_roles>
struct conv3_split_block : conv3_hopper_block<G> {
  using base = conv3_hopper_block<G>;
  static constexpr int multipliers = F.multipliers, threads = 128 * (F.loaders + multipliers);
  static constexpr bool in_turn = F.in_turn;
  static constexpr int stages = 6, ahead = 2;  ///< tiles that the loader's copies are in front of the one it waits for
  static constexpr int readers = 128;          ///< threads, of a tile
  static constexpr int loader_registers = 56, multiplier_registers = 152;
  static constexpr int first_stage = base::weight_bytes, stage_bytes = base::buffer_bytes;
  static constexpr int phase_offset = first_stage + stages * stage_bytes;  ///< two barriers a stage
  static constexpr int shared_bytes = phase_offset + 16 * stages + base::alignment;
  static_assert(F.loaders == 1 && threads == 512 && loader_registers + 3 * multiplier_registers == 512,
                "dm2::cuda::detail::stem::conv3_split_block: four warpgroups, and 65,536 registers");
};

/// What both kinds of warpgroups know of a block's tiles: number n of `count` is tile n blocks + block.
template <class Block>
struct split_walk {
  using tile_type = typename Block::tile;
  std::uint32_t shared;  ///< address
  tile_ring<Block> ring;
  int count;

  [[nodiscard]] __device__ tile_type tile_at(int n) const { return tile_type{n * int(gridDim.x) + int(blockIdx.x)}; }
  [[nodiscard]] __device__ int place(int n) const {
    return Block::first_stage + tile_ring<Block>::stage(n) * Block::stage_bytes;
  }
};

/// A thread of the warpgroup that loads.
template <class Block, class T>
struct split_loader {
  split_walk<Block> const& walk;
  T const* in;
  halo_part<Block, false> part;

  /// The first tiles.
  __device__ void begin() const {
#pragma unroll
    for (int n = 0; n < Block::ahead; ++n) start(n);
  }
  __device__ void run() const {
    for (int n = 0; n < walk.count; ++n) {
      start(n + Block::ahead);
      wait_copies<Block::ahead>();
      walk.ring.fill(n);
    }
  }

 private:
  __device__ void start(int n) const {
    if (n < walk.count) {
      walk.ring.wait_read(n);
      part.load(walk.shared + unsigned(walk.place(n)), in, walk.tile_at(n));
    }
    commit_copies();
  }
};

/// A thread of a warpgroup that multiplies tiles `first`, first + multipliers, ...
template <class Block, class T, bool Patches>
__device__ __forceinline__ void multiply_tiles(split_walk<Block> const& walk, float const* bias, T* out, int first,
                                               int thread) {
  using G = typename Block::geometry;
  int const row = thread / 32 * Block::rows, lane = thread % 32;
  for (int n = first; n < walk.count; n += Block::multipliers) {
    auto const tile = walk.tile_at(n);
    hopper_plane_sums s;
    s.start<G>(bias, lane);
    walk.ring.wait_filled(n);
    convolve3_hopper<Block, T>(s, walk.shared + unsigned(walk.place(n) + row * Block::row_bytes), walk.shared,
                               product_turns<Block>{n, walk.count});
    walk.ring.release(n);
    s.store<G, Patches>(out, tile.b, tile.y + row, tile.x, lane);
  }
}

/// out = relu(conv3x3(in) + bias), as conv3_kernel; at most as many blocks as tiles.
template <class Block, class T, bool Patches>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_split_kernel(T const* __restrict__ in, T const* __restrict__ weights, float const* __restrict__ bias,
                       T* __restrict__ out, int tiles) {
  if constexpr (hopper_code) {
    __shared__ float bias_of[Block::hidden];  // has_hopper_code() finds it
    unsigned char* const all = dynamic_shared();
    unsigned char* const memory = all + -shared_address(all) % Block::alignment;
    std::uint32_t const shared = shared_address(memory);
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), thread = int(threadIdx.x) % 128;
    int const count = (tiles - 1 - int(blockIdx.x)) / int(gridDim.x) + 1;
    split_walk<Block> const walk{shared, {shared + unsigned(Block::phase_offset)}, count};
    split_loader<Block, T> const loader{walk, in, {thread}};

    if (threadIdx.x == 0) walk.ring.init();
    __syncthreads();
    if (group == 0) loader.begin();
    spread_weights<Block>(memory, weights);
    if (threadIdx.x < Block::hidden) bias_of[threadIdx.x] = bias[threadIdx.x];
    fence_copies();
    __syncthreads();
    if (group == 0) {
      release_registers<Block::loader_registers>();
      loader.run();
    } else {
      claim_registers<Block::multiplier_registers>();
      multiply_tiles<Block, T, Patches>(walk, bias_of, out, group - 1, thread);
    }
  }
}

/// Launches the kernel for B pictures; false where the device or the build has it not.
template <class G, bool Patches, conv3_roles F = inference_roles, class T>
bool launch_conv3_hopper(cudaStream_t stream, device_properties const& device, T const* in, T const* weights,
                         float const* bias, T* out, int pictures) {
  using block = conv3_split_block<G, F>;
  if constexpr (block::possible && is_half<T>) {
    auto* const kernel = conv3_split_kernel<block, T, Patches>;
    char const* const name = "stem: 3 x 3 convolution";
    int const tiles = pictures * block::tile::across * block::tile::down;
    if (device.major != 9 || block::shared_bytes + 1024 > device.shared_per_block || !has_hopper_code(name, kernel))
      return false;
    launch(name, kernel, {unsigned(std::min(device.multiprocessors, tiles)), block::threads, block::shared_bytes},
           stream, in, weights, bias, out, tiles);
    return true;
  }
  return false;
}

}  // namespace dm2::cuda::detail::stem
