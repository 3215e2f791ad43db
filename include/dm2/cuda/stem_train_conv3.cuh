/// @file
/// The stem's 3 x 3 convolutions in training on tensor cores: forward, and the gradient of the input.
///
/// As in stem_conv3.cuh, a block keeps the weights and groups of warps work through tiles of 8 x 16 pixels. A tile's
/// inputs arrive in shared memory as they were saved; forward, each thread applies BatchNorm and ReLU to what it copied
/// before the others read it. What leaves the registers goes into sums for the next BatchNorm on the way, backward behind
/// ReLU's mask. So BatchNorm has no pass of its own over a plane: forward reads one and writes one, backward reads two,
/// the gradient and the raw output before, and writes one.
#pragma once

#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/stem_conv3.cuh>
#include <dm2/cuda/stem_train_eight.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// A block as for inference, with tables of what is done to each channel of the source and of the sink.
template <class G>
struct train_conv3_block : conv3_block<G, conv3_wide> {
  using base = conv3_block<G, conv3_wide>;
  static constexpr int table_offset = base::shared_bytes;               ///< of the source's table
  static constexpr int sink_offset = table_offset + 2 * 4 * G::hidden;  ///< of the sink's
  static constexpr int shared_bytes = sink_offset + 2 * 4 * G::hidden;
  static constexpr int warps_down = base::tile::height / base::rows;
  static_assert(base::sums::channels == 32, "dm2::cuda::detail::train_conv3_block: a lane has eight channels");
};

/// Changes the pieces of a halo that `thread` copied and that are in the plane: the piece at a byte offset becomes
/// change(offset). Their first channel is 8 (thread % pieces). Batch of them are read before one is written, so that
/// their latencies overlap.
template <class Block, int Batch, class Change>
__device__ inline void change_halo(unsigned char* at, typename Block::tile const& tile, int thread,
                                   Change const& change) {
  using G = typename Block::geometry;
  constexpr int pieces = Block::pieces, count = Block::halo_height * Block::halo_width * pieces;
  static_assert(Block::group_threads % pieces == 0, "a thread's pieces have the same channels");
#pragma unroll 1
  for (int first = thread; first < count; first += Batch * Block::group_threads) {
    int offset[Batch];
    uint4 changed[Batch];
#pragma unroll
    for (int j = 0; j < Batch; ++j) {
      int const i = first + j * Block::group_threads;
      int const row = i / pieces / Block::halo_width, column = i / pieces % Block::halo_width;
      bool const inside = i < count && unsigned(tile.y - 1 + row) < unsigned(G::plane_height) &&
                          unsigned(tile.x - 1 + column) < unsigned(G::plane_width);
      offset[j] = row * Block::row_bytes + column * Block::pixel_bytes + (thread % pieces ^ Block::swap(column)) * 16;
      if (!inside) offset[j] = -1;
    }
#pragma unroll
    for (int j = 0; j < Batch; ++j)
      if (offset[j] >= 0) changed[j] = change(offset[j]);
#pragma unroll
    for (int j = 0; j < Batch; ++j)
      if (offset[j] >= 0) *reinterpret_cast<uint4*>(at + offset[j]) = changed[j];
  }
}

/// Forward: relu(BatchNorm(raw)), zeros outside the plane.
template <class Block, class T>
struct activated_halo {
  using tile_type = typename Block::tile;
  static constexpr int hidden = Block::hidden;
  T const* raw;
  stem_train_norm norm;

  __device__ void fill(float* table, int c) const { eight_activations::fill(table, hidden, norm, c); }
  __device__ void load(std::uint32_t to, tile_type const& tile, int thread) const {
    load_halo<Block>(to, raw, tile, thread);
  }
  __device__ void prepare(unsigned char* at, float const* table, tile_type const& tile, int thread) const {
    eight_activations const eight{table, hidden, thread % Block::pieces * 8};
    change_halo<Block, 4>(at, tile, thread,
                          [&](int offset) { return eight.apply<T>(*reinterpret_cast<uint4 const*>(at + offset)); });
  }
};

/// Backward: the gradient of the convolution's output as it lies, zeros outside the plane.
template <class Block, bool Patches, class T>
struct copied_halo {
  using tile_type = typename Block::tile;
  T const* gradient;

  __device__ void fill(float*, int) const {}
  __device__ void load(std::uint32_t to, tile_type const& tile, int thread) const {
    load_halo<Block, Patches>(to, gradient, tile, thread);
  }
  __device__ void prepare(unsigned char*, float const*, tile_type const&, int) const {}
};

/// A lane's eight channels of a pixel of a warp's sums.
template <class Sums>
__device__ inline void lane_sums(Sums const& s, int row, int half, float (&x)[8]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) x[2 * n] = s.c[row][n][2 * half], x[2 * n + 1] = s.c[row][n][2 * half + 1];
}

/// Forward: the raw output, and the sums of it and of its squares. Patches: how it lies.
template <class G, bool Patches, class T>
struct raw_sink {
  T* raw;
  float* parts;  ///< [parts, 2, hidden]

  struct inputs {};
  __device__ void fill(float*, int) const {}
  __device__ inputs read(int, int, int, int) const { return {}; }
  template <class Sums>
  __device__ void store(Sums const& s, inputs const&, float const*, eight_sums& sums, int b, int y, int x,
                        int channel) const {
    int const g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        if (y + r >= G::plane_height || column >= G::plane_width) continue;
        float v[8];
        lane_sums(s, r, half, v);
        *reinterpret_cast<uint4*>(raw + plane_position<G, Patches>(b, y + r, column) * G::hidden + channel) =
            round_and_sum<T>(v, sums);
      }
  }
};

/// Backward: the gradient of the BatchNorm before this convolution, whose input `raw` is, and its sums.
template <class G, class T>
struct masked_sink {
  T const* raw;
  stem_train_norm norm;
  T* dz;
  float* parts;  ///< [parts, 2, hidden]

  /// What a lane reads of `raw`.
  struct inputs {
    uint4 raw[4][2];
  };
  __device__ void fill(float* table, int c) const { eight_masks::fill(table, G::hidden, norm, c); }
  __device__ inputs read(int b, int y, int x, int channel) const {
    inputs in;
    int const g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        bool const inside = y + r < G::plane_height && column < G::plane_width;
        in.raw[r][half] = make_uint4(0, 0, 0, 0);
        if (inside)
          in.raw[r][half] =
              *reinterpret_cast<uint4 const*>(raw + plane_position<G, false>(b, y + r, column) * G::hidden + channel);
      }
    return in;
  }
  template <class Sums>
  __device__ void store(Sums const& s, inputs const& in, float const* table, eight_sums& sums, int b, int y, int x,
                        int channel) const {
    int const g = int(threadIdx.x) % 32 / 4;
    eight_masks const eight{table, G::hidden, channel};
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        if (y + r >= G::plane_height || column >= G::plane_width) continue;
        float v[8];
        lane_sums(s, r, half, v);
        *reinterpret_cast<uint4*>(dz + plane_position<G, false>(b, y + r, column) * G::hidden + channel) =
            eight.apply<T>(v, in.raw[r][half], sums);
      }
  }
};

/// Which end a kernel starts from. Each starts where the one before it ended: what that wrote last is still in L2.
enum class tile_order : bool { upwards, downwards };

/// Tile number t of `tiles` in that order.
__device__ inline int tile_in_order(tile_order order, int t, int tiles) {
  return order == tile_order::upwards ? t : tiles - 1 - t;
}

/// sink = conv3x3(source) for `tiles` tiles of 8 x 16 pixels; any number of blocks. Tile t goes to group t / blocks of
/// block t % blocks, then round again. Parts of the sums: a warp's row of warps of a group each.
template <class Block, class T, class Source, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    stem_train_conv3_kernel(Source source, T const* __restrict__ weights, Sink sink, tile_order order, int tiles) {
  using sums = typename Block::sums;
  using tile_type = typename Block::tile;
  constexpr int hidden = Block::hidden;
  unsigned char* const memory = dynamic_shared();
  int const group = int(threadIdx.x) / Block::group_threads, thread = int(threadIdx.x) % Block::group_threads;
  int const warp = thread / 32, lane = thread % 32, across = warp % Block::warps_across;
  int const down = warp / Block::warps_across, row = down * Block::rows;
  int const channel = across * sums::channels + lane % 4 * 8;
  uint4 const* const fragments = reinterpret_cast<uint4 const*>(memory) + across * sums::columns / 2 * 32 + lane;
  std::uint32_t const shared = shared_address(memory);
  int buffer = Block::weight_bytes + group * Block::buffers * Block::buffer_bytes;
  int other = buffer + Block::buffer_bytes;
  float* const table = reinterpret_cast<float*>(memory + Block::table_offset);
  float* const sink_table = reinterpret_cast<float*>(memory + Block::sink_offset);
  int const step = int(gridDim.x) * Block::groups;
  int t = group * int(gridDim.x) + int(blockIdx.x);
  auto const tile_at = [=](int n) { return tile_type{tile_in_order(order, n, tiles)}; };

  copy_weights<Block::weight_bytes, Block::threads>(shared, weights);
  if (t < tiles) source.load(shared + unsigned(buffer), tile_at(t), thread);
  commit_copies();
  if (threadIdx.x < hidden) {
    source.fill(table, int(threadIdx.x));
    sink.fill(sink_table, int(threadIdx.x));
  }
  wait_copies<0>();
  __syncthreads();
  if (t < tiles) source.prepare(memory + buffer, table, tile_at(t), thread);
  barrier<Block::group_threads>(group);

  lane_share own;
  for (; t < tiles; t += step) {
    if (t + step < tiles) source.load(shared + unsigned(other), tile_at(t + step), thread);
    commit_copies();
    tile_type const tile = tile_at(t);
    auto const in = sink.read(tile.b, tile.y + row, tile.x, channel);
    sums s{};
    convolve3<Block, T>(s, shared + unsigned(buffer + row * Block::row_bytes), fragments);
    eight_sums more;
    sink.store(s, in, sink_table, more, tile.b, tile.y + row, tile.x, channel);
    more.share_out(own);
    wait_copies<0>();
    if (t + step < tiles) source.prepare(memory + other, table, tile_at(t + step), thread);
    barrier<Block::group_threads>(group);
    int const next = other;
    other = buffer, buffer = next;
  }
  int const part = (int(blockIdx.x) * Block::groups + group) * Block::warps_down + down;
  own.write(sink.parts + std::ptrdiff_t{part} * 2 * hidden + channel, hidden);
}

/// Parts of sums that launch_train_conv3 writes at most.
template <class Block>
constexpr int train_conv3_parts(int multiprocessors) {
  return multiprocessors * Block::groups * Block::warps_down;
}

/// Launches the kernel for B pictures; returns the number of parts of its sums.
template <class G, class Block, class T, class Source, class Sink>
int launch_train_conv3(cudaStream_t stream, int multiprocessors, char const* name, Source const& source,
                       T const* weights, Sink const& sink, tile_order order, int pictures) {
  int const tiles = pictures * Block::tile::across * Block::tile::down;
  unsigned const blocks = unsigned(std::min(tiles, multiprocessors));
  launch(name, stem_train_conv3_kernel<Block, T, Source, Sink>, {blocks, Block::threads, Block::shared_bytes}, stream,
         source, weights, sink, order, tiles);
  return int(blocks) * Block::groups * Block::warps_down;
}

}  // namespace dm2::cuda::detail
