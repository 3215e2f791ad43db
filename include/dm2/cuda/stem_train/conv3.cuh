/// @file
/// The stem's 3 x 3 convolutions in training on tensor cores.
///
/// Forward, and the gradient of the input.
///
/// As in stem/conv3.cuh, a block keeps the weights and groups of warps work through tiles of 8 x 16 pixels. A tile's
/// inputs arrive in shared memory as they were saved; forward, each thread applies BatchNorm and ReLU to what it copied
/// before the others read it. What leaves the registers goes into sums for the next BatchNorm on the way, backward
/// behind ReLU's mask. So BatchNorm has no pass of its own over a plane: forward reads one and writes one, backward
/// reads two, the gradient and the raw output before, and writes one. On a Hopper the kernel is conv3_split.cuh's.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem_train/conv3_split.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// A block as for inference, with tables of what is done to each channel of the source and of the sink.
template <class G>
struct conv3_block : stem::conv3_block<G, stem::conv3_wide> {
  using base = stem::conv3_block<G, stem::conv3_wide>;
  static constexpr int table_offset = base::shared_bytes;               ///< of the source's table
  static constexpr int sink_offset = table_offset + 2 * 4 * G::hidden;  ///< of the sink's
  static constexpr int shared_bytes = sink_offset + 2 * 4 * G::hidden;
  static constexpr int warps_down = base::tile::height / base::rows;
  static_assert(base::sums::channels == 32, "dm2::cuda::detail::stem_train::conv3_block: a lane has eight channels");
};

/// One thread of a group of warps that works through tiles t = group blocks + block, then `step` further on, each in
/// turn in one of two buffers, with tables of what is done to each channel.
template <class Block>
struct tile_walk {
  using tile_type = typename Block::tile;
  unsigned char* memory;
  tile_order order;
  int tiles, group, thread;

  [[nodiscard]] __device__ tile_type tile_at(int t) const { return tile_type{tile_in_order(order, t, tiles)}; }
  /// Tiles from the source's halo: place_weights(), and multiply(tile, the buffer's first byte, the sink's table) for
  /// each. The next tile arrives while one is multiplied.
  template <class Source, class Sink, class Place, class Multiply>
  __device__ __forceinline__ void run(Source const& source, Sink const& sink, Place const& place_weights,
                                      Multiply const& multiply) const {
    std::uint32_t const shared = shared_address(memory);
    int buffer = Block::weight_bytes + group * Block::buffers * Block::buffer_bytes;
    int other = buffer + Block::buffer_bytes;
    float* const table = reinterpret_cast<float*>(memory + Block::table_offset);
    float* const sink_table = reinterpret_cast<float*>(memory + Block::sink_offset);
    int const step = int(gridDim.x) * Block::groups;
    int t = group * int(gridDim.x) + int(blockIdx.x);

    if (t < tiles) source.load(shared + unsigned(buffer), tile_at(t), thread);
    place_weights();
    commit_copies();
    if (threadIdx.x < Block::hidden) {
      source.fill(table, int(threadIdx.x));
      sink.fill(sink_table, int(threadIdx.x));
    }
    wait_copies<0>();
    __syncthreads();
    if (t < tiles) source.prepare(memory + buffer, table, tile_at(t), thread);
    barrier<Block::group_threads>(group);
    for (; t < tiles; t += step) {
      if (t + step < tiles) source.load(shared + unsigned(other), tile_at(t + step), thread);
      commit_copies();
      multiply(tile_at(t), buffer, sink_table);
      wait_copies<0>();
      if (t + step < tiles) source.prepare(memory + other, table, tile_at(t + step), thread);
      barrier<Block::group_threads>(group);
      int const next = other;
      other = buffer, buffer = next;
    }
  }
};

/// sink = conv3x3(source) for `tiles` tiles of 8 x 16 pixels; any number of blocks. Tile t goes to group t / blocks of
/// block t % blocks, then round again. Parts of the sums: a warp's row of warps of a group each.
template <class Block, class T, class Source, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_kernel(Source source, T const* __restrict__ weights, Sink sink, tile_order order, int tiles) {
  using sums = typename Block::sums;
  unsigned char* const memory = dynamic_shared();
  int const group = int(threadIdx.x) / Block::group_threads, thread = int(threadIdx.x) % Block::group_threads;
  int const warp = thread / 32, lane = thread % 32, across = warp % Block::warps_across;
  int const down = warp / Block::warps_across, row = down * Block::rows;
  int const channel = across * sums::channels + fragment::column<8>(lane);
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(memory) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(memory);
  auto const place_weights = [&] { stem::copy_weights<Block::weight_bytes, Block::threads>(shared, weights); };
  lane_share own;
  auto const multiply = [&](typename Block::tile const& tile, int buffer, float const* table) {
    auto const in = sink.template read<Block::rows>(tile.b, tile.y + row, tile.x, channel);
    sums s{};
    stem::convolve3<Block, T>(s, shared + unsigned(buffer + row * Block::row_bytes), fragments);
    eight_sums more;
    sink.store(s, in, table, more, tile.b, tile.y + row, tile.x, channel);
    more.share_out(own);
  };
  tile_walk<Block> const walk{.memory = memory, .order = order, .tiles = tiles, .group = group, .thread = thread};
  walk.run(source, sink, place_weights, multiply);
  int const part = (int(blockIdx.x) * Block::groups + group) * Block::warps_down + down;
  own.write(sink.parts + std::ptrdiff_t{part} * 2 * Block::hidden + channel, Block::hidden);
}

/// Parts of sums that launch_conv3 writes at most.
template <class Block>
constexpr int conv3_parts(int multiprocessors) {
  using G = typename Block::geometry;
  using forward = conv3_split_block<G, forward_roles>;
  using backward = conv3_split_block<G, backward_roles>;
  return multiprocessors * std::max({Block::groups * Block::warps_down, forward::multipliers * forward::warps_down,
                                     backward::multipliers * backward::warps_down});
}

/// Launches the kernel for B pictures, conv3_split_kernel where the device has it; returns the number of parts of its
/// sums.
template <class G, class Block, conv3_roles Roles, class T, class Source, class Sink>
int launch_conv3(cudaStream_t stream, device_properties const& device, char const* name, Source const& source,
                 T const* weights, Sink const& sink, tile_order order, int pictures) {
  int const tiles = pictures * Block::tile::across * Block::tile::down;
  unsigned const blocks = unsigned(std::min(tiles, device.multiprocessors));
  if constexpr (stem::conv3_hopper_block<G>::possible) {
    using split = conv3_split_block<G, Roles>;
    auto* const kernel = conv3_split_kernel<split, T, Source, Sink>;
    if (device.major == 9 && has_hopper_code(name, kernel)) {
      launch(name, kernel, {blocks, split::threads, split::shared_bytes}, stream, source, weights, sink, order, tiles);
      return int(blocks) * split::multipliers * split::warps_down;
    }
  }
  launch(name, conv3_kernel<Block, T, Source, Sink>, {blocks, Block::threads, Block::shared_bytes}, stream, source,
         weights, sink, order, tiles);
  return int(blocks) * Block::groups * Block::warps_down;
}

}  // namespace dm2::cuda::detail::stem_train
