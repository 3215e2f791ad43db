/// @file
/// The weight gradient of the stem's first convolution, on tensor cores.
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

/// A warp's sums of 7 kernel rows, of 32 numbers each.
struct conv1_sums : weight_sums<7, 32> {
  /// += every second row of a tile from `row` on: dz at `gradient`, its picture at `picture`, shared addresses.
  template <class Block, class T>
  __device__ void multiply_tile(std::uint32_t gradient, std::uint32_t picture, int out, int in, int row) {
    int const lane = int(threadIdx.x) % 32, k = lane / 16 * 8 + lane % 8;
    std::uint32_t from[2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      from[m] = gradient + unsigned((row * 16 + k) * 128 + ((out / 8 + 2 * m + lane / 8 % 2) ^ k % 8) * 16);
    // Lane l points at pixel 8 (l / 8 % 2) + l % 8, numbers in + 8 (l / 16) on.
    multiply<Block, T>(
        picture + unsigned(2 * row * Block::row_bytes + (lane / 8 % 2 * 8 + lane % 8 + in / 8 + lane / 16) * 16), from);
  }

 private:
  /// Lane addresses: `picture` and `gradient` of the first row.
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
        this->template add<T>(tap, a, b);
      }
    }
  }
};

/// What the kernel reads: pictures, the gradient after ReLU's mask, and the convolution's raw output.
template <class Reader, class T>
struct conv1_weights_source {
  Reader picture;
  T const* dz;
  stem_number<T> const* raw;
  norm_gradient gradient;
};

/// The stages of dz, and the two tiles of pictures, in shared memory.
template <class Block, class Reader, class T>
struct conv1_weights_stage {
  using tile_type = typename Block::tile;
  conv1_weights_source<Reader, T> const& source;
  unsigned char* memory;

  [[nodiscard]] __device__ float* slopes() const { return reinterpret_cast<float*>(memory + Block::slope_offset); }
  [[nodiscard]] __device__ unsigned char* at(int slot) const { return memory + slot * Block::stage_bytes; }
  [[nodiscard]] __device__ unsigned char* picture(int which) const {
    return memory + Block::picture_offset + which * Block::picture_bytes;
  }
  __device__ void load(int slot, tile_type const& tile) const {
    std::uint32_t const to = shared_address(at(slot));
    load_tile<Block, false>(to, source.dz, tile, int(threadIdx.x));
    load_tile<Block, false>(to + unsigned(Block::plane_bytes), source.raw, tile, int(threadIdx.x));
  }
  __device__ void prepare(int slot, tile_type const& tile) const {
    prepare_slopes<Block, false, T>(at(slot), at(slot) + Block::plane_bytes, slopes(), tile, int(threadIdx.x), nullptr);
  }
};

/// parts [2 gridDim.x, 7, hidden, 32]: each block's sums over its tiles t = blockIdx.x, blockIdx.x + gridDim.x, ...
template <class Block, class T, class Reader>
__global__ void __launch_bounds__(Block::threads, 1)
    conv1_weights_kernel(conv1_weights_source<Reader, T> source, tile_order order, int tiles,
                         float* __restrict__ parts) {
  conv1_weights_stage<Block, Reader, T> const stage{source, dynamic_shared()};
  int const warp = int(threadIdx.x) / 32, step = int(gridDim.x);
  int const out = warp % 2 * 32, in = warp / 2 % 2 * 16, row = warp / 4;
  int t = int(blockIdx.x), even = 0;
  auto const tile_at = [=](int n) { return typename Block::tile{tile_in_order(order, n, tiles)}; };

  if (threadIdx.x < Block::hidden) eight_slopes::fill(stage.slopes(), Block::hidden, source.gradient, int(threadIdx.x));
  stage.load(0, tile_at(t));
  commit_copies();
  if (t + step < tiles) stage.load(1, tile_at(t + step));
  commit_copies();
  picture_part<Block, T> part;
  part.read(source.picture, tile_at(t));
  part.write(stage.picture(0));
  if (t + step < tiles) part.read(source.picture, tile_at(t + step));
  wait_copies<1>();
  __syncthreads();  // the table
  stage.prepare(0, tile_at(t));
  __syncthreads();

  conv1_sums sums;
  three_stages slot;
  for (; t < tiles; t += step, slot.now = slot.next(), even = 1 - even) {
    bool const more = t + step < tiles, after = t + 2 * step < tiles;
    if (after) stage.load(slot.after(), tile_at(t + 2 * step));
    commit_copies();
    if (more) part.write(stage.picture(1 - even));
    if (after) part.read(source.picture, tile_at(t + 2 * step));
    wait_copies<1>();
    if (more) stage.prepare(slot.next(), tile_at(t + step));
    sums.template multiply_tile<Block, T>(shared_address(stage.at(slot.now)), shared_address(stage.picture(even)), out,
                                          in, row);
    __syncthreads();
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
void launch_conv1_weights(cudaStream_t stream, int multiprocessors, conv1_weights_source<Reader, T> const& source,
                          tile_order order, int pictures, float* parts, float* dw) {
  using block = conv1_weights_block<G>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  int const blocks = std::min(tiles, multiprocessors);
  launch("stem: gradient of the 7 x 7 weights", conv1_weights_kernel<block, T, Reader>,
         {unsigned(blocks), block::threads, block::shared_bytes}, stream, source, order, tiles, parts);
  reduce_parts<conv1_place<G::channels>>(stream, parts, 2 * blocks, block::sums, dw);
}

}  // namespace dm2::cuda::detail::stem_train
