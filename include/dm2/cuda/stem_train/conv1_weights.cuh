/// @file
/// The gradient of the weights of the stem's first convolution, on tensor cores.
///
/// The picture's tile lies in shared memory with 4 channels a pixel, as in stem/conv1.cuh: output pixel x reads 64
/// bytes that start 16 bytes after those of pixel x - 1. Here they are the columns of a product that sums over pixels:
/// taps and channels of one kernel row, 8 of 16 bytes apart, so that ldmatrix reads 128 consecutive bytes. A block
/// keeps the sums, 64 x 224 floats twice, in its registers and writes them as two parts.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/stem_train/conv3_weights.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// A block of 8 warps: 2 halves of the output channels, 2 halves of a kernel row, 2 halves of the pixel rows. Three
/// tiles of the gradient are in shared memory, and two of the picture.
template <class G>
struct conv1_weights_block {
  using geometry = G;
  using tile = stem::plane_tile<G>;
  static constexpr int threads = 256, hidden = G::hidden, stages = 3;
  static constexpr int plane_bytes = tile::height * tile::width * 2 * hidden, stage_bytes = 2 * plane_bytes;
  static constexpr int picture_width = 2 * tile::width + 6, picture_height = 2 * tile::height + 5;
  static constexpr int pixels = picture_height * picture_width, row_bytes = picture_width * 8;
  static constexpr int picture_offset = stages * stage_bytes, picture_bytes = (pixels * 8 + 127) / 128 * 128;
  static constexpr int slope_offset = picture_offset + 2 * picture_bytes;
  static constexpr int shared_bytes = slope_offset + 3 * 4 * hidden;
  static constexpr int sums = 7 * 64 * 32;  ///< floats of a part: [kernel row, output channel, (pixel, channel)]
  static_assert(G::hidden == 64 && G::channels <= 4, "dm2::cuda::detail::stem_train::conv1_weights_block: 64 channels");
};

/// A thread's pixels of a picture's tile on their way from global to shared memory. They are rounded when they are
/// written: nothing waits for them before.
template <class Block, class T>
struct picture_part {
  using G = typename Block::geometry;
  static constexpr int each = (Block::pixels + Block::threads - 1) / Block::threads;
  float pixel[each][4];

  template <class Reader>
  __device__ void read(Reader const& picture, stem::plane_tile<G> const& tile) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      int const p = int(threadIdx.x) + i * Block::threads;
      int const y = 2 * tile.y - 3 + p / Block::picture_width, x = 2 * tile.x - 4 + p % Block::picture_width;
      bool const inside = p < Block::pixels && unsigned(y) < unsigned(G::height) && unsigned(x) < unsigned(G::width);
#pragma unroll
      for (int c = 0; c < 4; ++c) pixel[i][c] = c < G::channels && inside ? picture(tile.b, y, x, c) : 0.f;
    }
  }
  __device__ void write(unsigned char* to) const {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      int const p = int(threadIdx.x) + i * Block::threads;
      if (p < Block::pixels)
        reinterpret_cast<uint2*>(to)[p] =
            make_uint2(pack<T>(pixel[i][0], pixel[i][1]), pack<T>(pixel[i][2], pixel[i][3]));
    }
  }
};

/// A warp's sums: 7 kernel rows, 2 x 16 output channels, 2 x 8 of a kernel row's 32 numbers.
struct conv1_sums {
  float c[7][2][2][4] = {};

  /// += every second row of a tile. Lane addresses: `picture` and `gradient` of the warp's first row.
  template <class Block, class T>
  __device__ void multiply(std::uint32_t picture, std::uint32_t const (&gradient)[2]) {
#pragma unroll
    for (int r = 0; r < Block::tile::height; r += 2) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_matrix_transposed(a[m], gradient[m] + unsigned(r * 16 * 128));
#pragma unroll
      for (int tap = 0; tap < 7; ++tap) {
        std::uint32_t b[4];
        load_matrix_transposed(b, picture + unsigned((2 * r + tap) * Block::row_bytes));
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int n = 0; n < 2; ++n) mma<T>(c[tap][m][n], a[m], b[2 * n], b[2 * n + 1]);
      }
    }
  }
  /// To part [7, 64, 32], this warp's numbers from (out, in) on.
  __device__ void write(float* part, int out, int in) const {
    int const g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int tap = 0; tap < 7; ++tap)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int n = 0; n < 2; ++n)
            *reinterpret_cast<float2*>(part + (tap * 64 + out + 16 * m + 8 * half + g) * 32 + in + 8 * n + 2 * t) =
                make_float2(c[tap][m][n][2 * half], c[tap][m][n][2 * half + 1]);
  }
};

/// parts [2 gridDim.x, 7, hidden, 32]: each block's sums over its tiles t = blockIdx.x, blockIdx.x + gridDim.x, ...
template <class Block, class T, class Reader>
__global__ void __launch_bounds__(Block::threads, 1)
    conv1_weights_kernel(Reader picture, T const* __restrict__ dz, stem_number<T> const* __restrict__ raw,
                         norm_gradient gradient, tile_order order, int tiles, float* __restrict__ parts) {
  using tile_type = typename Block::tile;
  unsigned char* const memory = dynamic_shared();
  float* const slopes = reinterpret_cast<float*>(memory + Block::slope_offset);
  int const thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, step = int(gridDim.x);
  int const out = warp % 2 * 32, in = warp / 2 % 2 * 16, row = warp / 4;
  int const k = lane / 16 * 8 + lane % 8;
  auto const load = [&](int slot, tile_type const& tile) {
    std::uint32_t const to = shared_address(memory + slot * Block::stage_bytes);
    load_tile<Block, false>(to, dz, tile, thread);
    load_tile<Block, false>(to + unsigned(Block::plane_bytes), raw, tile, thread);
  };
  auto const prepare = [&](int slot, tile_type const& tile) {
    unsigned char* const at = memory + slot * Block::stage_bytes;
    prepare_slopes<Block, false, T>(at, at + Block::plane_bytes, slopes, tile, thread, nullptr);
  };

  if (thread < Block::hidden) eight_slopes::fill(slopes, Block::hidden, gradient, thread);
  int t = int(blockIdx.x), slot = 0, even = 0;
  auto const tile_at = [=](int n) { return tile_type{tile_in_order(order, n, tiles)}; };
  picture_part<Block, T> part;
  load(0, tile_at(t));
  commit_copies();
  if (t + step < tiles) load(1, tile_at(t + step));
  commit_copies();
  part.read(picture, tile_at(t));
  part.write(memory + Block::picture_offset);
  if (t + step < tiles) part.read(picture, tile_at(t + step));
  wait_copies<1>();
  __syncthreads();  // the table
  prepare(0, tile_at(t));
  __syncthreads();

  conv1_sums sums;
  for (; t < tiles; t += step) {
    int const next = slot == 2 ? 0 : slot + 1, last = slot == 0 ? 2 : slot - 1;
    bool const more = t + step < tiles, after = t + 2 * step < tiles;
    if (after) load(last, tile_at(t + 2 * step));
    commit_copies();
    if (more) part.write(memory + Block::picture_offset + (1 - even) * Block::picture_bytes);
    if (after) part.read(picture, tile_at(t + 2 * step));
    wait_copies<1>();
    if (more) prepare(next, tile_at(t + step));
    std::uint32_t const at = shared_address(memory + slot * Block::stage_bytes);
    std::uint32_t from[2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      from[m] = at + unsigned((row * 16 + k) * 128 + ((out / 8 + 2 * m + lane / 8 % 2) ^ k % 8) * 16);
    // Lane l points at pixel 8 (l / 8 % 2) + l % 8, numbers in + 8 (l / 16) on.
    std::uint32_t const under =
        shared_address(memory + Block::picture_offset + even * Block::picture_bytes) +
        unsigned(2 * row * Block::row_bytes + (lane / 8 % 2 * 8 + lane % 8 + in / 8 + lane / 16) * 16);
    sums.template multiply<Block, T>(under, from);
    __syncthreads();
    slot = next, even = 1 - even;
  }
  sums.write(parts + (std::ptrdiff_t{blockIdx.x} * 2 + row) * Block::sums, out, in);
}

/// Where a part's number (kernel row, out, (pixel, channel)) lies in the parameters' [out, C, 7, 7].
template <int Channels>
struct conv1_place {
  static __device__ int of(int i) {
    int const tap = i / 2048, out = i / 32 % 64, x = i % 32 / 4 - 1, c = i % 4;
    return x < 0 || c >= Channels ? -1 : ((out * Channels + c) * 7 + tap) * 7 + x;
  }
};

/// dw [hidden, C, 7, 7] += the gradient for B pictures.
///
/// Scratch  parts: 2 * multiprocessors * Block::sums floats.
template <class G, class T, class Reader>
void launch_conv1_weights(cudaStream_t stream, int multiprocessors, Reader const& picture, T const* dz,
                          stem_number<T> const* raw, norm_gradient const& gradient, tile_order order, int pictures,
                          float* parts, float* dw) {
  using block = conv1_weights_block<G>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  int const blocks = std::min(tiles, multiprocessors);
  launch("stem: gradient of the 7 x 7 weights", conv1_weights_kernel<block, T, Reader>,
         {unsigned(blocks), block::threads, block::shared_bytes}, stream, picture, dz, raw, gradient, order, tiles,
         parts);
  reduce_parts<conv1_place<G::channels>>(stream, parts, 2 * blocks, block::sums, dw);
}

}  // namespace dm2::cuda::detail::stem_train
