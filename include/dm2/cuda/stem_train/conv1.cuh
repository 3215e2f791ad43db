/// @file
/// The stem's first convolution in training on tensor cores.
///
/// The raw output, and its statistics on the way. One H200, Tiny, 256 pictures of floats: 302 us, 337 where each tile's
/// pixels are read when it begins.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/stem/conv1.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// A reader whose numbers lie in memory as floats: those of the next tile are copied to shared memory under this one's
/// products. Pictures of bytes are read before each tile.
template <class Reader>
concept has_addresses = requires(Reader const& picture) {
  picture.address(0, 0, 0, 0);
};

/// As stem::conv1_block.
template <class G>
struct conv1_block : stem::conv1_block<G> {
  using base = stem::conv1_block<G>;
  static constexpr int resident = base::resident;
  static constexpr int warps_down = base::tile::height / base::rows;
  static constexpr int float_bytes = G::channels * base::pixels * 4;  ///< a tile of the pictures, channel by channel
  template <class Reader>
  static constexpr int shared = base::shared_bytes + (has_addresses<Reader> ? float_bytes : 0);
};

/// Pixel number p of a tile of the pictures: where it is, and whether the picture has it.
template <class G>
struct tile_pixel {
  int y, x;
  bool inside;

  __device__ tile_pixel(stem::plane_tile<G> const& tile, int p)
      : y{2 * tile.y - 3 + p / conv1_block<G>::picture_width},
        x{2 * tile.x - 4 + p % conv1_block<G>::picture_width},
        inside{p < conv1_block<G>::pixels && unsigned(y) < unsigned(G::height) && unsigned(x) < unsigned(G::width)} {
    if (!inside) y = x = 0;  // an address that may be read
  }
};

/// As stem::picture_part, by way of floats in shared memory that are copied while the block does something else. A
/// thread reads what it copied itself.
template <class G, class T>
struct picture_ahead : stem::picture_part<G, T> {
  using base = stem::picture_part<G, T>;
  using block = typename base::block;

  template <class Reader>
  static __device__ void start(std::uint32_t floats, Reader const& picture, stem::plane_tile<G> const& tile) {
#pragma unroll
    for (int i = 0; i < base::each; ++i) {
      int const p = int(threadIdx.x) + i * block::threads;
      if (p >= block::pixels) continue;
      tile_pixel<G> const at{tile, p};
#pragma unroll
      for (int c = 0; c < G::channels; ++c)
        copy_async<4>(floats + unsigned(4 * (c * block::pixels + p)), picture.address(tile.b, at.y, at.x, c),
                      at.inside);
    }
  }
  /// Behind wait_copies().
  __device__ void take(float const* floats) {
#pragma unroll
    for (int i = 0; i < base::each; ++i) {
      int const p = int(threadIdx.x) + i * block::threads;
      if (p >= block::pixels) continue;
      float v[4] = {};
#pragma unroll
      for (int c = 0; c < G::channels; ++c) v[c] = floats[c * block::pixels + p];
      this->pixel[i] = make_uint2(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]));
    }
  }
};

/// A tile of the pictures from read to write.
template <class G, class T, class Reader>
struct conv1_pictures {
  using block = conv1_block<G>;
  static constexpr int floats_at = block::shared_bytes;
  Reader const& picture;
  unsigned char* memory;
  tile_order order;
  int tiles;

  [[nodiscard]] __device__ stem::plane_tile<G> tile(int t) const {
    return stem::plane_tile<G>{tile_in_order(order, t, tiles)};
  }
  __device__ void start(int t) const {
    if constexpr (has_addresses<Reader>)
      if (t < tiles) picture_ahead<G, T>::start(shared_address(memory + floats_at), picture, tile(t));
    commit_copies();
  }
  /// Tile t to shared memory, behind a barrier for the tile before; then the next one's copies start. A barrier has to
  /// follow.
  __device__ void load(int t) const {
    unsigned char* const to = memory + block::weight_bytes;
    if constexpr (has_addresses<Reader>) {
      picture_ahead<G, T> part;
      wait_copies<0>();
      part.take(reinterpret_cast<float const*>(memory + floats_at));
      __syncthreads();  // the tile before is read
      part.write(to);
      start(t + int(gridDim.x));
    } else {
      stem::picture_part<G, T> part;
      part.read(picture, tile(t));
      __syncthreads();  // the tile before is read
      part.write(to);
      wait_copies<0>();
    }
  }
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
  conv1_pictures<G, T, Reader> const pictures{picture, memory, order, tiles};

  stem::copy_weights<block::weight_bytes, block::threads>(shared, weights);
  pictures.start(int(blockIdx.x));
  lane_share own;
  for (int t = int(blockIdx.x); t < tiles; t += int(gridDim.x)) {
    auto const tile = pictures.tile(t);
    pictures.load(t);
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
  auto* const kernel = conv1_kernel<G, T, Reader>;
  prefer_shared(name, kernel);
  launch(name, kernel, {blocks, block::threads, block::template shared<Reader>}, stream, picture, weights, sink, order,
         tiles);
  return int(blocks) * block::warps_down;
}

}  // namespace dm2::cuda::detail::stem_train
