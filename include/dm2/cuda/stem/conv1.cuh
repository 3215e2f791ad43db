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

#include <dm2/cuda/context.cuh>
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

/// A tile of the pictures as it lies in memory, in shared memory: 16 bytes of a line before the first pixel that any
/// output reads, then whole 16 bytes. It is on its way while the tile before is multiplied: the block starts a tile's
/// copies, all of it waits for them, and each thread takes pairs of pixels out of it.
template <class G, class T, class Reader>
struct picture_ahead {
  using block = conv1_block<G>;
  static constexpr int chunks = (16 + (block::picture_width - 4) * Reader::pixel_bytes + 15) / 16;
  static constexpr int line_bytes = 16 * chunks, row_bytes = Reader::lines * line_bytes;
  static constexpr int bytes = block::picture_height * row_bytes, shared_bytes = block::shared_bytes + bytes;
  static_assert(4 * Reader::pixel_bytes <= 16 && block::picture_width % 2 == 0 && block::shared_bytes % 16 == 0);

  /// Zeros outside the picture, whose lines are whole 16 bytes. A thread's copies are whole rows apart.
  static __device__ void start(std::uint32_t to, Reader const& picture, plane_tile<G> const& tile) {
    constexpr int each = row_bytes / 16, rows = block::threads / each;
    static_assert(rows >= 1, "dm2::cuda::detail::stem::picture_ahead: a row of copies for a block's threads");
    int const first = int(threadIdx.x) / each, line = int(threadIdx.x) % each / chunks;
    int const y = 2 * tile.y - 3 + first, at = 2 * tile.x * Reader::pixel_bytes - 16 + int(threadIdx.x) % chunks * 16;
    bool const there = first < rows && unsigned(at) < unsigned(G::width * Reader::pixel_bytes);
    char const* const from = static_cast<char const*>(picture.line(tile.b, y, line)) + at;
    constexpr int pitch = G::width * Reader::pixel_bytes;
#pragma unroll
    for (int r = 0; r < block::picture_height; r += rows)
      if (first < rows && first + r < block::picture_height)
        copy_async(to + unsigned(int(threadIdx.x) * 16 + r * row_bytes), from + r * pitch,
                   there && unsigned(y + r) < unsigned(G::height));
  }
  /// To rows of 4 channels a pixel. A thread's pairs are whole rows apart.
  static __device__ void take(unsigned char* to, unsigned char const* from, Reader const& picture,
                              plane_tile<G> const& tile) {
    constexpr int each = block::picture_width / 2, rows = block::threads / each;
    int const first = int(threadIdx.x) / each, pair = int(threadIdx.x) % each;
    int const y = 2 * tile.y - 3 + first, x = 2 * tile.x - 4 + 2 * pair;
    unsigned char const* const at = from + first * row_bytes + 16 + (2 * pair - 4) * Reader::pixel_bytes;
#pragma unroll
    for (int r = 0; r < block::picture_height; r += rows) {
      if (first >= rows || first + r >= block::picture_height) continue;
      float v[2][4] = {};
      picture.read_pair(at + r * row_bytes, line_bytes, v);
      uint4 both = make_uint4(pack<T>(v[0][0], v[0][1]), pack<T>(v[0][2], v[0][3]), pack<T>(v[1][0], v[1][1]),
                              pack<T>(v[1][2], v[1][3]));
      if constexpr (!Reader::zeros_stay) {
        bool const of_picture = unsigned(y + r) < unsigned(G::height);
        if (!of_picture || unsigned(x) >= unsigned(G::width)) both.x = both.y = 0;
        if (!of_picture || unsigned(x + 1) >= unsigned(G::width)) both.z = both.w = 0;
      }
      reinterpret_cast<uint4*>(to)[int(threadIdx.x) + r * each] = both;
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

/// out [B, H / 2, W / 2, hidden] = relu(conv7x7(picture) + bias), for `tiles` tiles of 8 x 16 pixels; at most as many
/// blocks. Ahead: as picture_ahead; otherwise a tile's pixels are on their way while other blocks of the multiprocessor
/// multiply. The same products in the same order.
template <class G, class T, class Reader, bool Ahead>
__global__ void __launch_bounds__(conv1_block<G>::threads, conv1_block<G>::resident)
    conv1_kernel(Reader picture, T const* __restrict__ weights, float const* __restrict__ bias, T* __restrict__ out,
                 int tiles) {
  using block = conv1_block<G>;
  using sums = typename block::sums;
  using ahead = picture_ahead<G, T, Reader>;
  let_next_start();
  unsigned char* const stem_shared = dynamic_shared();
  unsigned char *const pixels = stem_shared + block::weight_bytes, *const copied = stem_shared + block::shared_bytes;
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const row = warp / block::warps_across * block::rows, across = warp % block::warps_across;
  int const channel = across * sums::channels + fragment::column(lane) * sums::columns;
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(stem_shared) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(stem_shared);

  copy_weights<block::weight_bytes, block::threads>(shared, weights);
  if constexpr (Ahead) ahead::start(shared_address(copied), picture, plane_tile<G>{int(blockIdx.x)});
  commit_copies();
  for (int t = int(blockIdx.x); t < tiles; t += int(gridDim.x)) {
    plane_tile<G> const tile{t};
    if constexpr (Ahead) {
      wait_copies<0>();
      __syncthreads();  // this tile is there, and the one before is read
      ahead::take(pixels, copied, picture, tile);
      __syncthreads();
      if (int const next = t + int(gridDim.x); next < tiles)
        ahead::start(shared_address(copied), picture, plane_tile<G>{next});
      commit_copies();
    } else {
      picture_part<G, T> part;
      part.read(picture, tile);
      __syncthreads();  // the tile before is read
      part.write(pixels);
      wait_copies<0>();
      __syncthreads();
    }
    sums s;
    s.start(bias + channel);
    convolve1<G, T>(s, shared + unsigned(block::weight_bytes + 2 * row * block::row_bytes), fragments);
    store_plane<G, false>(s, out, tile.b, tile.y + row, tile.x, channel);
  }
}

/// Launches the kernel for B pictures, with pixels ahead where their lines and the shared memory of a block let it.
template <class G, class T, class Reader>
void launch_conv1(cudaStream_t stream, device_properties const& device, Reader const& picture, T const* weights,
                  float const* bias, T* out, int pictures) {
  using block = conv1_block<G>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  char const* const name = "stem: 7 x 7 convolution";
  auto const with = [&](auto* kernel, int bytes) {
    launch_shape shape{1, block::threads, std::size_t(bytes)};
    prefer_shared(name, kernel);
    shape.grid = resident_blocks(name, kernel, shape, device.multiprocessors, tiles);
    launch(name, kernel, shape, stream, picture, weights, bias, out, tiles);
  };
  constexpr int ahead_bytes = picture_ahead<G, T, Reader>::shared_bytes;
  if (picture.lines_are_aligned() && ahead_bytes <= device.shared_per_block)
    with(conv1_kernel<G, T, Reader, true>, ahead_bytes);
  else
    with(conv1_kernel<G, T, Reader, false>, block::shared_bytes);
}

}  // namespace dm2::cuda::detail::stem
