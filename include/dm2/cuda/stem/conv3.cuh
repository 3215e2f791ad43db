/// @file
/// The stem's 3 x 3 convolutions on tensor cores.
///
/// With bias and ReLU, channels last.
///
/// A product with pixels as rows and channels as columns. A block keeps the layer's weights in shared memory and stays;
/// in it, groups of warps work through tiles of 8 x 16 pixels, each group with its own two buffers and barrier, so that
/// one group's loads and stores hide behind the others' products. A row of 16 pixels read once serves the products of
/// all three rows of taps: a warp of 4 rows and 32 channels reads 6 KB from shared memory for 48 products, 128 bytes
/// each, where 214 can be read in the time that mma.sync takes.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// How a block divides its work.
struct conv3_form {
  int rows;     ///< of pixels a warp
  int groups;   ///< of warps, each with a tile of its own
  int buffers;  ///< tiles a group holds: 1, or 2 so that the next one arrives meanwhile
};

/// For the device's 227 KB of shared memory, for 163 KB, and for 99 KB; the last one also for fewer tiles than
/// multiprocessors, where its 8 warps finish a tile soonest.
inline constexpr conv3_form conv3_wide{4, 3, 2}, conv3_medium{4, 2, 2}, conv3_small{2, 1, 1};

/// The sizes of a block.
template <class G, conv3_form F>
struct conv3_block {
  using geometry = G;
  using tile = plane_tile<G>;
  using sums = plane_sums<G::hidden, F.rows>;
  static constexpr int hidden = G::hidden, rows = F.rows, groups = F.groups, buffers = F.buffers;
  static constexpr int warps_across = hidden / sums::channels, group_warps = tile::height / rows * warps_across;
  static constexpr int group_threads = 32 * group_warps, threads = group_threads * groups;
  static constexpr int halo_width = tile::width + 2, halo_height = tile::height + 2;
  static constexpr int pixel_bytes = 2 * hidden, row_bytes = halo_width * pixel_bytes;
  static constexpr int buffer_bytes = halo_height * row_bytes, weight_bytes = 9 * hidden * pixel_bytes;
  static constexpr int shared_bytes = weight_bytes + groups * buffers * buffer_bytes;
  static_assert(buffer_bytes % 128 == 0 && weight_bytes % 128 == 0,
                "dm2::cuda::detail::stem::conv3_block: swizzled rows");

  // The 16-byte pieces of a pixel trade places by its column, so that 8 neighbours' equal pieces lie in different
  // banks.
  static constexpr int pieces = hidden / 8;
  static constexpr int swap_mask = pieces % 8 == 0 ? 7 : pieces % 4 == 0 ? 3 : 1;
  static constexpr int swap_shift = swap_mask == 7 ? 0 : swap_mask == 3 ? 1 : 2;
  static __device__ int swap(int column) { return (column >> swap_shift) & swap_mask; }
};

/// Starts the copy of a tile and the pixels around it, zeros outside the plane. Patches: how the plane lies.
template <class Block, bool Patches = false, class T>
__device__ inline void load_halo(std::uint32_t to, T const* in, typename Block::tile const& tile, int thread) {
  using G = typename Block::geometry;
  constexpr int pieces = Block::pieces, count = Block::halo_height * Block::halo_width * pieces;
#pragma unroll 4
  for (int i = thread; i < count; i += Block::group_threads) {
    int const piece = i % pieces, row = i / pieces / Block::halo_width, column = i / pieces % Block::halo_width;
    int const y = tile.y - 1 + row, x = tile.x - 1 + column;
    bool const inside = unsigned(y) < unsigned(G::plane_height) && unsigned(x) < unsigned(G::plane_width);
    T const* const from = in + plane_position<G, Patches>(tile.b, y, x) * G::hidden + piece * 8;
    copy_async(to + unsigned(row * Block::row_bytes + column * Block::pixel_bytes + (piece ^ Block::swap(column)) * 16),
               inside ? from : in, inside);
  }
}

/// s += the tile's convolution. `tile` points at the warp's first row above its pixels, `weights` at the lane's part.
template <class Block, class T>
__device__ inline void convolve3(typename Block::sums& s, std::uint32_t tile, uint4 const* weights) {
  constexpr int steps = Block::hidden / 16, rows = Block::rows, mask = Block::swap_mask;
  constexpr int stride = Block::hidden / 16 * 32;  // from one row of taps to the next
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int dx = 0; dx < 3; ++dx) {
    int const column = lane % 16 + dx;
    std::uint32_t const first = tile + unsigned(column * Block::pixel_bytes + (lane / 16 ^ Block::swap(column)) * 16);
#pragma unroll
    for (int k = 0; k < steps; ++k) {
      std::uint32_t const at = (first ^ unsigned((2 * k & mask) * 16)) + unsigned((2 * k & ~mask) * 16);
      std::uint32_t a[rows + 2][4];
#pragma unroll
      for (int r = 0; r < rows + 2; ++r) load_matrix(a[r], at + unsigned(r * Block::row_bytes));
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) s.template multiply<T>(a, dy, weights + ((dx * steps + k) * 3 + dy) * stride);
    }
  }
}

/// out = relu(conv3x3(in) + bias), for `tiles` tiles of 8 x 16 pixels.
///
/// Shapes  in [B, H / 2, W / 2, hidden]; out the same, or with Patches in the order of plane_position.
/// Blocks  any number; tile t goes to group t / blocks of block t % blocks, then round again.
template <class Block, class T, bool Patches>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_kernel(T const* __restrict__ in, T const* __restrict__ weights, float const* __restrict__ bias,
                 T* __restrict__ out, int tiles) {
  using sums = typename Block::sums;
  using tile_type = typename Block::tile;
  let_next_start();
  unsigned char* const stem_shared = dynamic_shared();
  int const group = int(threadIdx.x) / Block::group_threads, thread = int(threadIdx.x) % Block::group_threads;
  int const warp = thread / 32, lane = thread % 32;
  int const row = warp / Block::warps_across * Block::rows, across = warp % Block::warps_across;
  int const channel = across * sums::channels + fragment::column(lane) * sums::columns;
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(stem_shared) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(stem_shared);
  std::uint32_t buffer = shared + unsigned(Block::weight_bytes + group * Block::buffers * Block::buffer_bytes);
  std::uint32_t other = buffer + unsigned((Block::buffers - 1) * Block::buffer_bytes);
  int const step = int(gridDim.x) * Block::groups;
  int t = group * int(gridDim.x) + int(blockIdx.x);

  copy_weights<Block::weight_bytes, Block::threads>(shared, weights);
  wait_for_previous();
  if (t < tiles) load_halo<Block>(buffer, in, tile_type{t}, thread);
  commit_copies();
  wait_copies<0>();
  __syncthreads();

  for (; t < tiles; t += step) {
    if (Block::buffers == 2 && t + step < tiles) load_halo<Block>(other, in, tile_type{t + step}, thread);
    commit_copies();
    tile_type const tile{t};
    sums s;
    s.start(bias + channel);
    convolve3<Block, T>(s, buffer + unsigned(row * Block::row_bytes), fragments);
    if (Block::buffers == 1) {
      barrier<Block::group_threads>(group);
      if (t + step < tiles) load_halo<Block>(buffer, in, tile_type{t + step}, thread);
      commit_copies();
    }
    store_plane<typename Block::geometry, Patches>(s, out, tile.b, tile.y + row, tile.x, channel);
    wait_copies<0>();
    barrier<Block::group_threads>(group);
    std::uint32_t const next = other;
    other = buffer, buffer = next;
  }
}

/// Launches the kernel in form F for B pictures; `early` as in launch_shape.
template <class G, conv3_form F, bool Patches, class T>
void launch_conv3(cudaStream_t stream, int multiprocessors, T const* in, T const* weights, float const* bias, T* out,
                  int pictures, bool early) {
  using block = conv3_block<G, F>;
  auto* const kernel = conv3_kernel<block, T, Patches>;
  int const tiles = pictures * block::tile::across * block::tile::down;
  char const* const name = "stem: 3 x 3 convolution";
  launch_shape shape{1, block::threads, block::shared_bytes, early};
  shape.grid = resident_blocks(name, kernel, shape, multiprocessors, tiles);
  launch(name, kernel, shape, stream, in, weights, bias, out, tiles);
}

}  // namespace dm2::cuda::detail::stem
