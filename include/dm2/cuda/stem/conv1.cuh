/// @file
/// The stem's first convolution (7 x 7, stride 2) on tensor cores.
///
/// With bias and ReLU, from pictures as they come.
///
/// The tile of the picture is normalised, rounded and stored in shared memory with 4 channels a pixel. Output pixel x
/// reads 8 pixels from 2 x - 4 on in each of 7 rows: 64 bytes, of which the first pixel weighs zero, that start 16
/// bytes after those of pixel x - 1. So 8 rows of the product's operand are 128 consecutive bytes, which ldmatrix reads
/// without conflicts from where the picture lies, and 7 x 32 inputs make 14 steps of 16. (Blocks of 2 x 2 pixels would
/// make 12, at rows of 24 bytes that ldmatrix cannot read.)
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// The sizes of a block: a tile of 8 x 16 pixels, a warp 4 rows of it.
template <class G>
struct conv1_block {
  static constexpr int rows = 4;
  using tile = plane_tile<G>;
  using sums = plane_sums<G::hidden, rows>;
  static constexpr int warps_across = G::hidden / sums::channels, warps = tile::height / rows * warps_across;
  static constexpr int threads = 32 * warps, resident = threads >= 512 ? 1 : 512 / threads;
  static constexpr int picture_width = 2 * tile::width + 6, picture_height = 2 * tile::height + 5;
  static constexpr int row_bytes = picture_width * 8, weight_bytes = 7 * 32 * 2 * G::hidden;
  static constexpr int pixels = picture_height * picture_width;
  static constexpr int shared_bytes = weight_bytes + picture_height * row_bytes;
  static_assert(row_bytes % 16 == 0 && weight_bytes % 128 == 0, "dm2::cuda::detail::stem::conv1_block: aligned rows");
};

/// A thread's pixels of a tile: pixels thread, thread + threads, ... of picture_height x picture_width.
template <class G, class T>
struct picture_part {
  using block = conv1_block<G>;
  static constexpr int each = (block::pixels + block::threads - 1) / block::threads;
  uint2 pixel[each];

  template <class Reader>
  __device__ void read(Reader const& picture, plane_tile<G> const& tile) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      int const p = int(threadIdx.x) + i * block::threads;
      int const y = 2 * tile.y - 3 + p / block::picture_width, x = 2 * tile.x - 4 + p % block::picture_width;
      pixel[i] = make_uint2(0, 0);
      if (p >= block::pixels || unsigned(y) >= unsigned(G::height) || unsigned(x) >= unsigned(G::width)) continue;
      float v[4] = {};
#pragma unroll
      for (int c = 0; c < G::channels; ++c) v[c] = picture(tile.b, y, x, c);
      pixel[i] = make_uint2(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]));
    }
  }
  __device__ void write(unsigned char* to) const {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      int const p = int(threadIdx.x) + i * block::threads;
      if (p < block::pixels) reinterpret_cast<uint2*>(to)[p] = pixel[i];
    }
  }
};

/// s += the tile's convolution. `tile` points at the warp's first row, `weights` at the lane's part.
template <class G, class T>
__device__ inline void convolve1(typename conv1_block<G>::sums& s, std::uint32_t tile, uint4 const* weights) {
  using block = conv1_block<G>;
  constexpr int rows = block::rows, stride = G::hidden / 16 * 32;
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    std::uint32_t const at = tile + unsigned((lane % 16 + 2 * h + lane / 16) * 16);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {  // output row r reads picture row 2 r + tap: even taps even rows
      std::uint32_t a[rows + 3][4];
#pragma unroll
      for (int r = 0; r < rows + 3 - odd; ++r) load_matrix(a[r], at + unsigned((2 * r + odd) * block::row_bytes));
#pragma unroll
      for (int q = 0; q < 4 - odd; ++q) s.template multiply<T>(a, q, weights + (h * 7 + 2 * q + odd) * stride);
    }
  }
}

/// out [B, H / 2, W / 2, hidden] = relu(conv7x7(picture) + bias), for `tiles` tiles of 8 x 16 pixels; any number of
/// blocks. The pixels of the next tile are on their way while other blocks of the multiprocessor multiply.
template <class G, class T, class Reader>
__global__ void __launch_bounds__(conv1_block<G>::threads, conv1_block<G>::resident)
    conv1_kernel(Reader picture, T const* __restrict__ weights, float const* __restrict__ bias, T* __restrict__ out,
                 int tiles) {
  using block = conv1_block<G>;
  using sums = typename block::sums;
  let_next_start();
  unsigned char* const stem_shared = dynamic_shared();
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const row = warp / block::warps_across * block::rows, across = warp % block::warps_across;
  int const channel = across * sums::channels + fragment::column(lane) * sums::columns;
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(stem_shared) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(stem_shared);

  copy_weights<block::weight_bytes, block::threads>(shared, weights);
  commit_copies();
  for (int t = int(blockIdx.x); t < tiles; t += int(gridDim.x)) {
    plane_tile<G> const tile{t};
    picture_part<G, T> part;
    part.read(picture, tile);
    __syncthreads();  // the tile before is read
    part.write(stem_shared + block::weight_bytes);
    wait_copies<0>();
    __syncthreads();
    sums s;
    s.start(bias + channel);
    convolve1<G, T>(s, shared + unsigned(block::weight_bytes + 2 * row * block::row_bytes), fragments);
    store_plane<G, false>(s, out, tile.b, tile.y + row, tile.x, channel);
  }
}

/// Launches the kernel for B pictures.
template <class G, class T, class Reader>
void launch_conv1(cudaStream_t stream, int multiprocessors, Reader const& picture, T const* weights, float const* bias,
                  T* out, int pictures) {
  using block = conv1_block<G>;
  auto* const kernel = conv1_kernel<G, T, Reader>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  char const* const name = "stem: 7 x 7 convolution";
  launch_shape shape{1, block::threads, block::shared_bytes};
  shape.grid = resident_blocks(name, kernel, shape, multiprocessors, tiles);
  launch(name, kernel, shape, stream, picture, weights, bias, out, tiles);
}

}  // namespace dm2::cuda::detail::stem
