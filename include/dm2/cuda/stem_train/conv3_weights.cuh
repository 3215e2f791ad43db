/// @file
/// Weight gradients of the stem's 3 x 3 convolutions, on tensor cores.
///
/// A product whose rows are output channels, whose columns are taps and input channels, and that sums over pixels. A
/// block's sums, 9 x 64 x 64 floats, stay in its registers while it works through tiles of 8 x 16 pixels; at the end it
/// writes them as one part, and a second kernel adds the parts in their order. A row of 16 input pixels, read once for
/// each column of taps, serves the three rows of taps: a warp reads 5 fragments from shared memory for 36 products.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/stem_train/weights.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// A block of 8 warps: 2 halves of the output channels, 4 quarters of the input channels. Three tiles are in shared
/// memory: one is multiplied, the next one is there and is prepared, the one after arrives.
template <class G>
struct conv3_weights_block : stem::conv3_block<G, stem::conv3_form{2, 1, 1}> {
  using base = stem::conv3_block<G, stem::conv3_form{2, 1, 1}>;
  static constexpr int threads = base::threads, stages = 3;
  static constexpr int plane_bytes = base::tile::height * base::tile::width * base::pixel_bytes;
  static constexpr int dz_offset = base::buffer_bytes, raw_offset = dz_offset + plane_bytes;
  static constexpr int stage_bytes = raw_offset + plane_bytes;
  static constexpr int table_offset = stages * stage_bytes, slope_offset = table_offset + 2 * 4 * G::hidden;
  static constexpr int shared_bytes = slope_offset + 3 * 4 * G::hidden;
  static constexpr int sums = 9 * G::hidden * G::hidden;  ///< floats of a part: [tap, output channel, input channel]
  static_assert(G::hidden == 64 && threads == 256, "dm2::cuda::detail::stem_train::conv3_weights_block: 64 channels");
};

/// Starts the copy of a tile of a plane without the pixels around it, zeros outside the plane.
template <class Block, bool Patches, class T>
__device__ inline void load_tile(std::uint32_t to, T const* in, typename Block::tile const& tile, int thread) {
  using G = typename Block::geometry;
#pragma unroll
  for (int j = 0; j < Block::tile::height * Block::tile::width * 8 / Block::threads; ++j) {
    int const i = thread + j * Block::threads, piece = i % 8, row = i / 128, column = i / 8 % 16;
    bool const inside = tile.y + row < G::plane_height && tile.x + column < G::plane_width;
    T const* const from =
        in + stem::plane_position<G, Patches>(tile.b, tile.y + row, tile.x + column) * G::hidden + piece * 8;
    copy_async(to + unsigned(i / 8 * 128 + (piece ^ column % 8) * 16), inside ? from : in, inside);
  }
}

/// dz of a tile becomes the gradient of the convolution's output, in the pieces that this thread copied, and, unless
/// `out` is null, in the plane that it came from.
template <class Block, bool Patches, class T>
__device__ inline void prepare_slopes(unsigned char* dz, unsigned char const* raw, float const* table,
                                      typename Block::tile const& tile, int thread, T* out) {
  using G = typename Block::geometry;
  eight_slopes const eight{table, G::hidden, thread % 8 * 8};
#pragma unroll
  for (int j = 0; j < Block::tile::height * Block::tile::width * 8 / Block::threads; ++j) {
    int const i = thread + j * Block::threads, row = i / 128, column = i / 8 % 16;
    if (tile.y + row >= G::plane_height || tile.x + column >= G::plane_width) continue;
    int const offset = i / 8 * 128 + (i % 8 ^ column % 8) * 16;
    uint4* const v = reinterpret_cast<uint4*>(dz + offset);
    uint4 const dy = eight.apply<T>(*v, *reinterpret_cast<uint4 const*>(raw + offset));
    *v = dy;
    if (out != nullptr)
      *reinterpret_cast<uint4*>(
          out + stem::plane_position<G, Patches>(tile.b, tile.y + row, tile.x + column) * G::hidden + i % 8 * 8) = dy;
  }
}

/// What the kernel reads. Patches: how dz and raw lie; before is the raw output of the convolution before. dz becomes
/// the gradient of this convolution's output.
template <class G, bool Patches, class T>
struct conv3_weights_source {
  stem_number<T> const *before, *raw;
  T* dz;
  batch_norm norm;  ///< of `before`
  norm_gradient gradient;
};

/// Copies and prepares tiles for the kernel.
template <class Block, bool Patches, class T>
struct conv3_weights_stage {
  using tile_type = typename Block::tile;
  using source_type = conv3_weights_source<typename Block::geometry, Patches, T>;

  static __device__ void load(source_type const& s, unsigned char* at, tile_type const& tile) {
    std::uint32_t const to = shared_address(at);
    stem::load_halo<Block>(to, s.before, tile, int(threadIdx.x));
    load_tile<Block, Patches, T>(to + unsigned(Block::dz_offset), s.dz, tile, int(threadIdx.x));
    load_tile<Block, Patches>(to + unsigned(Block::raw_offset), s.raw, tile, int(threadIdx.x));
  }
  static __device__ void prepare(source_type const& s, unsigned char* at, float const* table, float const* slopes,
                                 tile_type const& tile) {
    int const thread = int(threadIdx.x);
    eight_activations const eight{table, Block::hidden, thread % 8 * 8};
    change_halo<Block, 2>(at, tile, thread,
                          [&](int offset) { return eight.apply<T>(*reinterpret_cast<uint4 const*>(at + offset)); });
    prepare_slopes<Block, Patches, T>(at + Block::dz_offset, at + Block::raw_offset, slopes, tile, thread, s.dz);
  }
};

/// A warp's sums for the gradient of weights: Taps, of each 2 x 16 output channels and 2 x 8 of a tap's `Inputs`.
template <int Taps, int Inputs>
struct weight_sums {
  float c[Taps][2][2][4] = {};

  /// Tap `tap` += a b: fragments of the output channels, and of the inputs.
  template <class T>
  __device__ void add(int tap, std::uint32_t const (&a)[2][4], std::uint32_t const (&b)[4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) mma<T>(c[tap][m][n], a[m], b[2 * n], b[2 * n + 1]);
  }

  /// To part [Taps, 64, Inputs], this warp's numbers from (out, in) on.
  __device__ void write(float* part, int out, int in) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int tap = 0; tap < Taps; ++tap)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int n = 0; n < 2; ++n)
            *reinterpret_cast<float2*>(part + (tap * 64 + out + 16 * m + fragment::row(lane, half)) * Inputs + in +
                                       8 * n + fragment::column(lane)) =
                make_float2(c[tap][m][n][2 * half], c[tap][m][n][2 * half + 1]);
  }
};

/// Of three stages of shared memory one is multiplied, the next one is there and is prepared, the one after arrives.
struct three_stages {
  int now = 0;

  [[nodiscard]] __device__ int next() const { return now == 2 ? 0 : now + 1; }
  [[nodiscard]] __device__ int after() const { return now == 0 ? 2 : now - 1; }
};

/// A warp's sums of 9 taps.
struct conv3_weights_sums : weight_sums<9, 64> {
  /// += the tile whose stage is at `at`, a shared address; the warp's channels from (out, in) on.
  template <class Block, class T>
  __device__ void multiply_tile(std::uint32_t at, int out, int in) {
    // Lane l points at row l % 8 of matrix l / 8; a tile's gradient has matrices (k, m), (k, m + 8), (k + 8, m), ...
    int const lane = int(threadIdx.x) % 32, k = lane / 16 * 8 + lane % 8, j = lane / 8 % 2 * 8 + lane % 8;
    std::uint32_t from[3], gradient[2];
#pragma unroll
    for (int dx = 0; dx < 3; ++dx)
      from[dx] = at + unsigned((j + dx) * Block::pixel_bytes + ((in / 8 + lane / 16) ^ (j + dx) % 8) * 16);
#pragma unroll
    for (int m = 0; m < 2; ++m)
      gradient[m] = at + unsigned(Block::dz_offset + k * 128 + ((out / 8 + 2 * m + lane / 8 % 2) ^ k % 8) * 16);
    multiply<Block, T>(from, gradient);
  }

 private:
  /// += a tile. Lane addresses: `in` of the input's first row without a shift, `gradient` of the first row.
  template <class Block, class T>
  __device__ void multiply(std::uint32_t const (&in)[3], std::uint32_t const (&gradient)[2]) {
    std::uint32_t a[3][2][4];
#pragma unroll
    for (int r = 0; r < Block::tile::height + 2; ++r) {
      std::uint32_t b[3][4];
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) load_matrix_transposed(b[dx], in[dx] + unsigned(r * Block::row_bytes));
      if (r < Block::tile::height)
#pragma unroll
        for (int m = 0; m < 2; ++m) load_matrix_transposed(a[r % 3][m], gradient[m] + unsigned(r * 16 * 128));
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) {
        if (r < dy || r - dy >= Block::tile::height) continue;
#pragma unroll
        for (int dx = 0; dx < 3; ++dx) this->template add<T>(dy * 3 + dx, a[(r - dy) % 3], b[dx]);
      }
    }
  }
};

/// parts [gridDim.x, 9, hidden, hidden]: each block's sum over its tiles t = blockIdx.x, blockIdx.x + gridDim.x, ...
template <class Block, bool Patches, class T>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_weights_kernel(conv3_weights_source<typename Block::geometry, Patches, T> source, tile_order order, int tiles,
                         float* __restrict__ parts) {
  using stage = conv3_weights_stage<Block, Patches, T>;
  using tile_type = typename Block::tile;
  unsigned char* const memory = dynamic_shared();
  float* const table = reinterpret_cast<float*>(memory + Block::table_offset);
  float* const slopes = reinterpret_cast<float*>(memory + Block::slope_offset);
  int const warp = int(threadIdx.x) / 32, step = int(gridDim.x);
  int const out = warp % 2 * 32, in = warp / 2 * 16;

  if (threadIdx.x < Block::hidden) {
    eight_activations::fill(table, Block::hidden, source.norm, int(threadIdx.x));
    eight_slopes::fill(slopes, Block::hidden, source.gradient, int(threadIdx.x));
  }
  int t = int(blockIdx.x);
  auto const tile_at = [=](int n) { return tile_type{tile_in_order(order, n, tiles)}; };
  stage::load(source, memory, tile_at(t));
  commit_copies();
  if (t + step < tiles) stage::load(source, memory + Block::stage_bytes, tile_at(t + step));
  commit_copies();
  wait_copies<1>();
  __syncthreads();  // the tables
  stage::prepare(source, memory, table, slopes, tile_at(t));
  __syncthreads();

  conv3_weights_sums sums;
  three_stages slot;
  for (; t < tiles; t += step, slot.now = slot.next()) {
    if (t + 2 * step < tiles) stage::load(source, memory + slot.after() * Block::stage_bytes, tile_at(t + 2 * step));
    commit_copies();
    wait_copies<1>();
    auto const prepare_next = [&](bool mine) {
      if (mine && t + step < tiles)
        stage::prepare(source, memory + slot.next() * Block::stage_bytes, table, slopes, tile_at(t + step));
    };
    prepare_next(warp < 4);  // one of the two warps of each scheduler before it multiplies, the other one after
    sums.template multiply_tile<Block, T>(shared_address(memory + slot.now * Block::stage_bytes), out, in);
    prepare_next(warp >= 4);
    __syncthreads();
  }
  sums.write(parts + std::ptrdiff_t{blockIdx.x} * Block::sums, out, in);
}

/// Where a part's number (tap, out, in) lies in the parameters' [out, in, tap].
struct conv3_place {
  static __device__ int of(int i) { return i % 4096 * 9 + i / 4096; }
};

/// dw [hidden, hidden, 3, 3] += the gradient for B pictures.
///
/// Scratch  parts: multiprocessors * Block::sums floats.
template <class G, bool Patches, class T>
void launch_conv3_weights(cudaStream_t stream, int multiprocessors, conv3_weights_source<G, Patches, T> const& source,
                          tile_order order, int pictures, float* parts, float* dw) {
  using block = conv3_weights_block<G>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  int const blocks = std::min(tiles, multiprocessors);
  launch("stem: gradient of the 3 x 3 weights", conv3_weights_kernel<block, Patches, T>,
         {unsigned(blocks), block::threads, block::shared_bytes}, stream, source, order, tiles, parts);
  reduce_parts<conv3_place>(stream, parts, blocks, block::sums, dw);
}

}  // namespace dm2::cuda::detail::stem_train
