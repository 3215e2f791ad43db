/// @file
/// The stem's 3 x 3 convolutions in training on tensor cores.
///
/// Forward, and the gradient of the input.
///
/// As in stem/conv3.cuh, a block keeps the weights and groups of warps work through tiles of 8 x 16 pixels. A tile's
/// inputs arrive in shared memory as they were saved; forward, each thread applies BatchNorm and ReLU to what it copied
/// before the others read it. What leaves the registers goes into sums for the next BatchNorm on the way, backward
/// behind ReLU's mask. So BatchNorm has no pass of its own over a plane: forward reads one and writes one, backward
/// reads two, the gradient and the raw output before, and writes one.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem/conv3_hopper.cuh>
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

/// The same for a Hopper.
template <class G>
struct conv3_hopper_block : stem::conv3_hopper_block<G> {
  using base = stem::conv3_hopper_block<G>;
  static constexpr int table_offset = base::weight_bytes + base::groups * base::buffers * base::buffer_bytes;
  static constexpr int sink_offset = table_offset + 2 * 4 * G::hidden;
  static constexpr int shared_bytes = base::shared_bytes + 2 * 2 * 4 * G::hidden;
  static constexpr int warps_down = base::tile::height / base::rows;
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

/// As conv3_kernel, with stem/conv3_hopper.cuh's products; parts of the sums: a warp of a group each.
template <class Block, class T, class Source, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_hopper_kernel(Source source, T const* __restrict__ weights, Sink sink, tile_order order, int tiles) {
  if constexpr (hopper_code) {
    using G = typename Block::geometry;
    __shared__ int first_byte;  // has_hopper_code() finds it
    unsigned char* const all = dynamic_shared();
    if (threadIdx.x == 0) first_byte = int(-shared_address(all) % Block::alignment);
    __syncthreads();
    unsigned char* const memory = all + first_byte;
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), thread = int(threadIdx.x) % 128;
    int const warp = thread / 32, row = warp * Block::rows, channel = fragment::column<8>(thread);
    std::uint32_t const shared = shared_address(memory);
    auto const place_weights = [&] {
      stem::spread_weights<Block>(memory, weights);
      fence_copies();
    };
    lane_share own[2];
    auto const multiply = [&](typename Block::tile const& tile, int buffer, float const* table) {
      stem::hopper_plane_sums s{};
      stem::convolve3_hopper<Block, T>(s, shared + unsigned(buffer + row * Block::row_bytes), shared);
#pragma unroll
      for (int across = 0; across < 2; ++across) {
        int const first = across * 32 + channel;
        auto const in = sink.template read<Block::rows>(tile.b, tile.y + row, tile.x, first);
        eight_sums more;
        sink.store(s.half<G>(across), in, table, more, tile.b, tile.y + row, tile.x, first);
        more.share_out(own[across]);
      }
    };
    tile_walk<Block> const walk{.memory = memory, .order = order, .tiles = tiles, .group = group, .thread = thread};
    walk.run(source, sink, place_weights, multiply);
    int const part = (int(blockIdx.x) * Block::groups + group) * Block::warps_down + warp;
#pragma unroll
    for (int across = 0; across < 2; ++across)
      own[across].write(sink.parts + std::ptrdiff_t{part} * 2 * Block::hidden + across * 32 + channel, Block::hidden);
  }
}

/// How a Hopper's warpgroups share the work: each does all of it for its tiles, or one or two of four load; then the
/// others multiply as they can, or in turn.
enum class conv3_way : unsigned char { together, one_loads, two_load, in_turn };

/// The block of a way.
template <class G, conv3_way Way>
struct conv3_way_block {
  using type = conv3_split_block<G, Way == conv3_way::one_loads ? conv3_roles{1, 3, false}
                                                                : conv3_roles{2, 2, Way == conv3_way::in_turn}>;
};
template <class G>
struct conv3_way_block<G, conv3_way::together> {
  using type = conv3_hopper_block<G>;
};

/// The kernel of a way.
template <conv3_way Way, class Block, class T, class Source, class Sink>
constexpr auto conv3_way_kernel() {
  if constexpr (Way == conv3_way::together)
    return conv3_hopper_kernel<Block, T, Source, Sink>;
  else
    return conv3_split_kernel<Block, T, Source, Sink>;
}

/// Parts of sums that launch_conv3 writes at most; no way has more than three warpgroups that multiply.
template <class Block>
constexpr int conv3_parts(int multiprocessors) {
  using hopper = conv3_hopper_block<typename Block::geometry>;
  return multiprocessors * std::max(Block::groups * Block::warps_down, hopper::groups * hopper::warps_down);
}

/// Launches the kernel for B pictures; returns the number of parts of its sums.
template <class G, class Block, conv3_way Way = conv3_way::together, class T, class Source, class Sink>
int launch_conv3(cudaStream_t stream, int multiprocessors, char const* name, Source const& source, T const* weights,
                 Sink const& sink, tile_order order, int pictures) {
  int const tiles = pictures * Block::tile::across * Block::tile::down;
  unsigned const blocks = unsigned(std::min(tiles, multiprocessors));
  if constexpr (conv3_hopper_block<G>::possible) {
    using hopper = typename conv3_way_block<G, Way>::type;
    auto* const kernel = conv3_way_kernel<Way, hopper, T, Source, Sink>();
    if (has_hopper_code(name, kernel)) {
      launch(name, kernel, {blocks, hopper::threads, hopper::shared_bytes}, stream, source, weights, sink, order,
             tiles);
      return int(blocks) * hopper::groups * hopper::warps_down;
    }
  }
  launch(name, conv3_kernel<Block, T, Source, Sink>, {blocks, Block::threads, Block::shared_bytes}, stream, source,
         weights, sink, order, tiles);
  return int(blocks) * Block::groups * Block::warps_down;
}

}  // namespace dm2::cuda::detail::stem_train
