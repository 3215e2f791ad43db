/// @file
/// The stem's first convolution in training on tensor cores.
///
/// The raw output, and its statistics on the way.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/stem/conv1.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// As stem::conv1_block.
template <class G>
struct conv1_block : stem::conv1_block<G> {
  using base = stem::conv1_block<G>;
  static constexpr int resident = base::resident;
  static constexpr int warps_down = base::tile::height / base::rows;
};

/// sink = conv7x7(picture) of stride 2, for `tiles` tiles of 8 x 16 pixels; any number of blocks. Parts of the sums: a
/// block's rows of warps.
template <class G, class T, class Reader>
__global__ void __launch_bounds__(conv1_block<G>::threads, conv1_block<G>::resident)
    conv1_kernel(Reader picture, T const* __restrict__ weights, raw_sink<G, false, T> sink, tile_order order,
                 int tiles) {
  using block = conv1_block<G>;
  using sums = typename block::sums;
  unsigned char* const memory = dynamic_shared();
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const down = warp / block::warps_across, row = down * block::rows, across = warp % block::warps_across;
  int const channel = across * sums::channels + fragment::column<8>(lane);
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(memory) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(memory);

  stem::copy_weights<block::weight_bytes, block::threads>(shared, weights);
  commit_copies();
  lane_share own;
  for (int t = int(blockIdx.x); t < tiles; t += int(gridDim.x)) {
    stem::plane_tile<G> const tile{tile_in_order(order, t, tiles)};
    stem::picture_part<G, T> part;
    part.read(picture, tile);
    __syncthreads();  // the tile before is read
    part.write(memory + block::weight_bytes);
    wait_copies<0>();
    __syncthreads();
    sums s{};
    stem::convolve1<G, T>(s, shared + unsigned(block::weight_bytes + 2 * row * block::row_bytes), fragments);
    eight_sums more;
    sink.store(s, {}, nullptr, more, tile.b, tile.y + row, tile.x, channel);
    more.share_out(own);
  }
  own.write(sink.parts + (std::ptrdiff_t{blockIdx.x} * block::warps_down + down) * 2 * G::hidden + channel, G::hidden);
}

/// Blocks at a time, and parts of sums that launch_conv1 writes at most.
template <class G>
constexpr int conv1_parts(int multiprocessors) {
  return multiprocessors * conv1_block<G>::resident * conv1_block<G>::warps_down;
}

/// Launches the kernel for B pictures; returns the number of parts of its sums.
template <class G, class T, class Reader>
int launch_conv1(cudaStream_t stream, int multiprocessors, Reader const& picture, T const* weights,
                 raw_sink<G, false, T> const& sink, tile_order order, int pictures) {
  using block = conv1_block<G>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  unsigned const blocks = unsigned(std::min(tiles, multiprocessors * block::resident));
  char const* const name = "stem: 7 x 7 convolution with statistics";
  prefer_shared(name, conv1_kernel<G, T, Reader>);
  launch(name, conv1_kernel<G, T, Reader>, {blocks, block::threads, block::shared_bytes}, stream, picture, weights,
         sink, order, tiles);
  return int(blocks) * block::warps_down;
}

}  // namespace dm2::cuda::detail::stem_train
