/// @file
/// Tiles with the pixels around them, as the stem's tensor kernels in training bring them to shared memory.
#pragma once

#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// Which end a kernel starts from. Each starts where the one before it ended: what that wrote last is still in L2.
enum class tile_order : bool { upwards, downwards };

/// Tile number t of `tiles` in that order.
__device__ inline int tile_in_order(tile_order order, int t, int tiles) {
  return order == tile_order::upwards ? t : tiles - 1 - t;
}

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

}  // namespace dm2::cuda::detail
