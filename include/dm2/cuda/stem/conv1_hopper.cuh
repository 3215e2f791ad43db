/// @file
/// The stem's first convolution for a Hopper.
///
/// conv1.cuh with the products of a warpgroup, pixels ahead.
///
/// A block is a warpgroup with a tile of 8 x 16 pixels, a warp two rows of it and all channels. Four are on a
/// multiprocessor, so that one's pixels are prepared while others multiply. A row of 16 pixels, read once as a
/// fragment, serves the products of two rows. Those of a tile take 896 cycles of the tensor cores; mma.sync's take at
/// least 1,400.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv1.cuh>
#include <dm2/cuda/stem/conv3_hopper.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// The sizes of a block: weights of 14 steps of 16 inputs in swizzled tiles of four, then pixels, then copied lines.
template <class G, class T, class Reader>
struct conv1_hopper_block : conv1_block<G> {
  using base = conv1_block<G>;
  static constexpr bool possible = G::hidden == 64;
  static constexpr int rows = 2;  ///< of output pixels, of a warp
  static constexpr int resident = 4, steps = 14, tile_bytes = 64 * 128, alignment = 1024;
  static constexpr int pixel_offset = (steps + 3) / 4 * tile_bytes;
  static constexpr int copy_offset = pixel_offset + base::picture_height * base::row_bytes;
  static constexpr int shared_bytes = copy_offset + picture_ahead<G, T, Reader>::bytes + alignment;
};

/// Weights in the order of conv1_layout to where products read them: step s at tile s / 4, columns 16 (s % 4) on.
template <class Block>
__device__ inline void spread_first_weights(unsigned char* to, void const* weights) {
  uint4 const* const from = static_cast<uint4 const*>(weights);
  for (int i = int(threadIdx.x); i < Block::weight_bytes / 16; i += Block::threads) {
    int const lane = i % 32, column = i / 32 % 4 * 16 + fragment::row(lane), step = i / 128;
    uint4 const v = from[i];
    std::uint32_t const word[4]{v.x, v.y, v.z, v.w};  // columns from 0 and 8, of each inputs from 0 and 8
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      int const n = column + w / 2 * 8, piece = (2 * (step % 4) + w % 2) ^ (n % 8);
      *reinterpret_cast<std::uint32_t*>(to + step / 4 * Block::tile_bytes + n * 128 + piece * 16 +
                                        fragment::column(lane) * 2) = word[w];
    }
  }
}

/// s += the tile's convolution, in convolve1's order. `tile` points at the warp's first row; fragments of even or odd
/// rows of taps are read while those before are multiplied.
template <class Block, class T>
__device__ __forceinline__ void convolve1_hopper(hopper_plane_sums& s, std::uint32_t tile, std::uint32_t weights) {
  constexpr int groups = 4;  // half a row of taps, even or odd rows
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t a[2][5][4];
  auto const load = [&](int g) {
    std::uint32_t const at = tile + unsigned((lane % 16 + 2 * (g / 2) + lane / 16) * 16);
#pragma unroll
    for (int r = 0; r < 5 - g % 2; ++r) load_matrix(a[g % 2][r], at + unsigned((2 * r + g % 2) * Block::row_bytes));
  };
  load(0);
  hold(s.c[0]), hold(s.c[1]);
#pragma unroll
  for (int g = 0; g < groups; ++g) {
    fence_products();
#pragma unroll
    for (int q = 0; q < 4 - g % 2; ++q) {
      int const step = g / 2 * 7 + 2 * q + g % 2;
      std::uint64_t const b = further(product_operand(weights + unsigned(step / 4 * Block::tile_bytes)), step % 4);
#pragma unroll
      for (int r = 0; r < Block::rows; ++r) multiply_plane<T>(s.c[r], a[g % 2][r + q], b);
    }
    commit_products();
    if (g + 1 < groups) {
      wait_products<1>();  // those before these, whose fragments give way
      load(g + 1);
    }
  }
  wait_products<0>();
  hold(s.c[0]), hold(s.c[1]);
}

/// As conv1_kernel.
template <class Block, class G, class T, class Reader>
__global__ void __launch_bounds__(Block::threads, Block::resident)
    conv1_hopper_kernel(Reader picture, T const* __restrict__ weights, float const* __restrict__ bias,
                        T* __restrict__ out, int tiles) {
  if constexpr (hopper_code) {
    using ahead = picture_ahead<G, T, Reader>;
    __shared__ float bias_of[G::hidden];  // has_hopper_code() finds it
    let_next_start();
    unsigned char* const memory = align_shared<Block::alignment>(dynamic_shared());
    unsigned char *const pixels = memory + Block::pixel_offset, *const copied = memory + Block::copy_offset;
    int const lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * Block::rows;
    std::uint32_t const shared = shared_address(memory);

    ahead::start(shared_address(copied), picture, plane_tile<G>{int(blockIdx.x)});
    commit_copies();
    spread_first_weights<Block>(memory, weights);
    if (threadIdx.x < G::hidden) bias_of[threadIdx.x] = bias[threadIdx.x];
    fence_copies();
    for (int t = int(blockIdx.x); t < tiles; t += int(gridDim.x)) {
      plane_tile<G> const tile{t};
      wait_copies<0>();
      __syncthreads();  // this tile is there, and the one before is read
      ahead::take(pixels, copied, picture, tile);
      __syncthreads();
      if (int const next = t + int(gridDim.x); next < tiles)
        ahead::start(shared_address(copied), picture, plane_tile<G>{next});
      commit_copies();
      hopper_plane_sums s;
      s.start<G>(bias_of, lane);
      convolve1_hopper<Block, T>(s, shared_address(pixels) + unsigned(2 * row * Block::row_bytes), shared);
      s.store<G, false>(out, tile.b, tile.y + row, tile.x, lane);
    }
  }
}

/// Launches the kernel for B pictures; false where the device, the build or the pictures' lines have it not.
template <class G, class T, class Reader>
bool launch_conv1_hopper(cudaStream_t stream, device_properties const& device, Reader const& picture, T const* weights,
                         float const* bias, T* out, int pictures) {
  using block = conv1_hopper_block<G, T, Reader>;
  if constexpr (block::possible && is_half<T>) {
    auto* const kernel = conv1_hopper_kernel<block, G, T, Reader>;
    char const* const name = "stem: 7 x 7 convolution";
    int const tiles = pictures * block::tile::across * block::tile::down;
    if (device.major != 9 || block::shared_bytes + 1024 > device.shared_per_block || !picture.lines_are_aligned() ||
        !has_hopper_code(name, kernel))
      return false;
    launch_shape shape{1, block::threads, block::shared_bytes};
    prefer_shared(name, kernel);
    shape.grid = resident_blocks(name, kernel, shape, device.multiprocessors, tiles);
    launch(name, kernel, shape, stream, picture, weights, bias, out, tiles);
    return true;
  }
  return false;
}

}  // namespace dm2::cuda::detail::stem
