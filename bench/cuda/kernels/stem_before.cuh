/// @file
/// The stem's inference kernels as they were, beside those of now.
///
/// Planes are stored word by word, a tile's pixels are read when they are needed, every warpgroup loads and multiplies,
/// and the projection waits for each number that it adds. Kept while both are compared.
#pragma once

#include <dm2/cuda/stem.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::bench::stem_before {

using namespace cuda;
using namespace cuda::detail;
using namespace cuda::detail::stem;

/// Whole: as now. Else relu of the sums to rows [y, y + Rows), columns [x, x + 16) of picture b. `channel`
/// is this lane's first.
template <class G, bool Patches, bool Whole, class T, int Rows>
__device__ inline void store_plane(plane_sums<G::hidden, Rows> const& s, T* out, int b, int y, int x, int channel) {
  if constexpr (Whole) {
    stem::store_plane<G, Patches>(s, out, b, y, x, channel);
    return;
  }
  constexpr int columns = warp_columns<G::hidden>;
  for_own_pixels<G, Rows>(y, x, [&](int r, int half, int column) {
    packet<std::uint32_t, columns> p;
#pragma unroll
    for (int n = 0; n < columns; ++n) p.v[n] = pack_relu<T>(s.c[r][n][2 * half], s.c[r][n][2 * half + 1]);
    T* const to = out + plane_position<G, Patches>(b, y + r, column) * G::hidden + channel;
    store_packet(reinterpret_cast<std::uint32_t*>(to), p);
  });
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
    store_plane<G, false, false>(s, out, tile.b, tile.y + row, tile.x, channel);
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
    store_plane<typename Block::geometry, Patches, false>(s, out, tile.b, tile.y + row, tile.x, channel);
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

/// out = relu(conv3x3(in) + bias), as conv3_kernel.
template <class Block, class T, bool Patches, bool Whole>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_hopper_kernel(T const* __restrict__ in, T const* __restrict__ weights, float const* __restrict__ bias,
                        T* __restrict__ out, int tiles) {
  if constexpr (hopper_code) {
    using G = typename Block::geometry;
    using tile_type = typename Block::tile;
    __shared__ float bias_of[Block::hidden];  // has_hopper_code() finds it
    unsigned char* const memory = dynamic_shared();
    // From another lane: so the compiler knows that a warp's lanes agree, and keeps products in flight in the loop.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), thread = int(threadIdx.x) % 128, lane = thread % 32;
    int const row = thread / 32 * Block::rows;
    std::uint32_t const start = shared_address(memory),
                        shift = (Block::alignment - start % Block::alignment) % Block::alignment;
    std::uint32_t const shared = start + shift;
    std::uint32_t buffer = shared + unsigned(Block::weight_bytes + group * Block::buffers * Block::buffer_bytes);
    std::uint32_t other = buffer + unsigned(Block::buffer_bytes);
    int const step = int(gridDim.x) * Block::groups;
    int t = group * int(gridDim.x) + int(blockIdx.x);

    if (t < tiles) load_halo<Block>(buffer, in, tile_type{t}, thread);
    commit_copies();
    spread_weights<Block>(memory + shift, weights);
    if (threadIdx.x < Block::hidden) bias_of[threadIdx.x] = bias[threadIdx.x];
    fence_copies();
    wait_copies<0>();
    __syncthreads();

    for (; t < tiles; t += step) {
      if (t + step < tiles) load_halo<Block>(other, in, tile_type{t + step}, thread);
      commit_copies();
      tile_type const tile{t};
      hopper_plane_sums s;
      s.start<G>(bias_of, lane);
      convolve3_hopper<Block, T>(s, buffer + unsigned(row * Block::row_bytes), shared);
#pragma unroll
      for (int across = 0; across < 2; ++across)
        store_plane<G, Patches, Whole>(s.half<G>(across), out, tile.b, tile.y + row, tile.x,
                                       across * 32 + fragment::column<8>(lane));
      wait_copies<0>();
      barrier<128>(group);
      std::uint32_t const next = other;
      other = buffer, buffer = next;
    }
  }
}

/// Launches the kernel for B pictures; false where the device or the build has it not.
template <class G, bool Patches, bool Whole, class T>
bool launch_conv3_hopper(cudaStream_t stream, device_properties const& device, T const* in, T const* weights,
                         float const* bias, T* out, int pictures) {
  using block = conv3_hopper_block<G>;
  if constexpr (block::possible && is_half<T>) {
    auto* const kernel = conv3_hopper_kernel<block, T, Patches, Whole>;
    char const* const name = "stem: 3 x 3 convolution";
    int const tiles = pictures * block::tile::across * block::tile::down;
    if (device.major != 9 || block::shared_bytes + 1024 > device.shared_per_block || !has_hopper_code(name, kernel))
      return false;
    launch(name, kernel, {unsigned(std::min(device.multiprocessors, tiles)), block::threads, block::shared_bytes},
           stream, in, weights, bias, out, tiles);
    return true;
  }
  return false;
}

/// Bias and position embedding added, to token rows [pictures (Tokens + 1), D]. A picture's first patch also writes its
/// class token. The embeddings may lie at any address.
template <int D, int Tokens>
struct token_sink {
  static constexpr int middle = Tokens / 2;  ///< the class token of Tokens + 1
  float const *bias, *cls, *pos;
  float* x;

  [[nodiscard]] token_sink skip(std::ptrdiff_t rows) const {
    return {bias, cls, pos, x == nullptr ? x : x + rows / Tokens * (Tokens + 1) * D};
  }
  __device__ void operator()(int row, int column, float v) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    to[token * D] = v + bias[column] + pos[token * D + column];
    if (patch == 0) to[middle * D] = cls[column] + pos[middle * D + column];
  }
  __device__ void operator()(int row, int column, float2 v) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    float2 const c = *reinterpret_cast<float2 const*>(bias + column);
    float const* const p = pos + token * D + column;
    *reinterpret_cast<float2*>(to + token * D) = make_float2(v.x + c.x + p[0], v.y + c.y + p[1]);
    if (patch != 0) return;
    float const* const q = pos + middle * D + column;
    *reinterpret_cast<float2*>(to + middle * D) = make_float2(cls[column] + q[0], cls[column + 1] + q[1]);
  }
};

}  // namespace dm2::bench::stem_before
