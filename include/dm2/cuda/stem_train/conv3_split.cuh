/// @file
/// 3 x 3 convolutions of the stem's training: some warpgroups only load.
///
/// conv3.cuh's convolution for a Hopper, with stem/conv3_hopper.cuh's products and its work parted: some warpgroups
/// bring tiles with their halo into a ring of six in shared memory and apply BatchNorm and ReLU there, the others
/// multiply and store. Where each of three warpgroups does one after the other it is 1,794 instructions of a warp and
/// tile. Here they are 470 of a loading warp, whose threads keep to a column of the tile and eight channels, so that
/// pieces are a constant apart and the channels' numbers stay in registers, and 749 of a multiplying one. One H200,
/// Tiny, 256 pictures: 381 and 439 us forward for 514 and 560, 511 and 526 backward for 508 and 540.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3_hopper.cuh>
#include <dm2/cuda/stem/tile_ring.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

using stem::conv3_roles;
using stem::halo_part;
using stem::product_turns;
using stem::tile_ring;

/// The fastest of three on an H200, Tiny, 256 pictures: two that load and two that multiply in turn take 450 us forward
/// for 391; backward, where a tile's raw output is read as well, one that loads 590 for 460.
inline constexpr conv3_roles forward_roles{1, 3, false}, backward_roles{2, 2, true};

/// The sizes of a block.
template <class G, conv3_roles F>
struct conv3_split_block : stem::conv3_hopper_block<G> {
  using base = stem::conv3_hopper_block<G>;
  static constexpr int loaders = F.loaders, multipliers = F.multipliers, threads = 128 * (loaders + multipliers);
  static constexpr bool in_turn = F.in_turn;
  static constexpr int stages = 6, ahead = 2 / loaders;  ///< tiles that a loader's copies are in front of its work
  static constexpr int readers = 128;                    ///< threads, of a tile
  static constexpr int loader_registers = loaders == 1 ? 80 : 88, multiplier_registers = loaders == 1 ? 144 : 168;
  static constexpr int first_stage = base::weight_bytes, stage_bytes = base::buffer_bytes;
  static constexpr int table_offset = first_stage + stages * stage_bytes;
  static constexpr int sink_offset = table_offset + 2 * 4 * G::hidden;
  static constexpr int phase_offset = sink_offset + 2 * 4 * G::hidden;  ///< two barriers a stage
  static constexpr int shared_bytes = phase_offset + 16 * stages + base::alignment;
  static constexpr int warps_down = base::tile::height / base::rows;
  static_assert(base::group_threads == 128 && (loaders == 1 || loaders == 2) && threads == 512 &&
                    shared_bytes + 1024 <= 227 * 1024,
                "dm2::cuda::detail::stem_train::conv3_split_block: four warpgroups, a Hopper's shared memory");
};

/// What both kinds of warpgroups know of a block's tiles.
template <class Block>
struct split_walk {
  using tile_type = typename Block::tile;
  unsigned char* memory;
  tile_ring<Block> ring;
  tile_order order;
  int tiles, count;  ///< all of them, and this block's

  [[nodiscard]] __device__ tile_type tile_at(int n) const {
    return tile_type{tile_in_order(order, n * int(gridDim.x) + int(blockIdx.x), tiles)};
  }
  [[nodiscard]] __device__ int place(int n) const {
    return Block::first_stage + tile_ring<Block>::stage(n) * Block::stage_bytes;
  }
  [[nodiscard]] __device__ float* table() const { return reinterpret_cast<float*>(memory + Block::table_offset); }
  [[nodiscard]] __device__ float* sink_table() const { return reinterpret_cast<float*>(memory + Block::sink_offset); }
};

/// A thread of a warpgroup that loads tiles `first`, first + loaders, ...
template <class Block, class T, class Source>
struct split_loader {
  split_walk<Block> const& walk;
  Source const& source;
  halo_part<Block, Source::patches> part;
  int first;

  /// Before the tables are there.
  __device__ void begin() const {
#pragma unroll
    for (int i = 0; i < Block::ahead; ++i) start(first + i * Block::loaders);
  }
  __device__ void run() const {
    if constexpr (Source::changes) {
      auto const change = Source::change(walk.table(), part.thread % 8 * 8);
      run([&](int n) {
        part.change(walk.memory + walk.place(n), walk.tile_at(n), [&](uint4 v) { return change.template apply<T>(v); });
      });
    } else {
      run([](int) {});
    }
  }

 private:
  __device__ void start(int n) const {
    if (n < walk.count) {
      walk.ring.wait_read(n);
      part.load(shared_address(walk.memory) + unsigned(walk.place(n)), source.plane(), walk.tile_at(n));
    }
    commit_copies();
  }
  /// Tile after tile: prepare(n) when this thread's pieces of tile n are there.
  template <class Prepare>
  __device__ __forceinline__ void run(Prepare const& prepare) const {
    for (int n = first; n < walk.count; n += Block::loaders) {
      start(n + Block::ahead * Block::loaders);
      wait_copies<Block::ahead>();
      prepare(n);
      walk.ring.fill(n);
    }
  }
};

/// A thread of a warpgroup that multiplies tiles `first`, first + multipliers, ...; returns with its share of the sums.
template <class Block, class T, class Sink>
__device__ __forceinline__ void multiply_tiles(split_walk<Block> const& walk, Sink const& sink, int first, int thread,
                                               lane_share (&own)[2]) {
  using G = typename Block::geometry;
  int const row = thread / 32 * Block::rows, channel = fragment::column<8>(thread);
  std::uint32_t const shared = shared_address(walk.memory);
  for (int n = first; n < walk.count; n += Block::multipliers) {
    auto const tile = walk.tile_at(n);
    decltype(sink.template read<Block::rows>(0, 0, 0, 0)) in[2];
#pragma unroll
    for (int across = 0; across < 2; ++across)
      in[across] = sink.template read<Block::rows>(tile.b, tile.y + row, tile.x, across * 32 + channel);
    walk.ring.wait_filled(n);
    stem::hopper_plane_sums s{};
    stem::convolve3_hopper<Block, T>(s, shared + unsigned(walk.place(n) + row * Block::row_bytes), shared,
                                     product_turns<Block>{n, walk.count});
    walk.ring.release(n);
#pragma unroll
    for (int across = 0; across < 2; ++across) {
      eight_sums more;
      sink.store(s.template half<G>(across), in[across], walk.sink_table(), more, tile.b, tile.y + row, tile.x,
                 across * 32 + channel);
      more.share_out(own[across]);
    }
  }
}

/// As conv3_kernel; parts of the sums: a warp of a multiplying warpgroup each. Tile n of a block is tile
/// n blocks + block.
template <class Block, class T, class Source, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_split_kernel(Source source, T const* __restrict__ weights, Sink sink, tile_order order, int tiles) {
  if constexpr (hopper_code) {
    __shared__ int first_byte;  // has_hopper_code() finds it
    unsigned char* const all = dynamic_shared();
    if (threadIdx.x == 0) {
      first_byte = int(-shared_address(all) % Block::alignment);
      tile_ring<Block>{shared_address(all + first_byte) + unsigned(Block::phase_offset)}.init();
    }
    __syncthreads();
    unsigned char* const memory = all + first_byte;
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), thread = int(threadIdx.x) % 128;
    int const count = (tiles - 1 - int(blockIdx.x)) / int(gridDim.x) + 1;
    split_walk<Block> const walk{memory, {shared_address(memory) + unsigned(Block::phase_offset)}, order, tiles, count};
    split_loader<Block, T, Source> const loader{walk, source, {thread}, group};

    if (group < Block::loaders) loader.begin();
    stem::spread_weights<Block>(memory, weights);
    fence_copies();
    if (threadIdx.x < Block::hidden) {
      source.fill(walk.table(), int(threadIdx.x));
      sink.fill(walk.sink_table(), int(threadIdx.x));
    }
    __syncthreads();
    if (group < Block::loaders) {
      release_registers<Block::loader_registers>();
      loader.run();
    } else {
      claim_registers<Block::multiplier_registers>();
      int const own_group = group - Block::loaders;
      lane_share own[2];
      multiply_tiles<Block, T>(walk, sink, own_group, thread, own);
      int const part = (int(blockIdx.x) * Block::multipliers + own_group) * Block::warps_down + thread / 32;
#pragma unroll
      for (int across = 0; across < 2; ++across)
        own[across].write(
            sink.parts + std::ptrdiff_t{part} * 2 * Block::hidden + across * 32 + fragment::column<8>(thread),
            Block::hidden);
    }
  }
}

}  // namespace dm2::cuda::detail::stem_train
