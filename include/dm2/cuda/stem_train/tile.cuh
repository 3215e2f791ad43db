/// @file
/// Tiles with their halo, and where convolutions' sums go, in training.
#pragma once

#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>

#include <cstdint>

namespace dm2::cuda::detail::stem_train {

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
  static constexpr bool patches = false, changes = true;  ///< how the plane lies; whether its numbers change
  T const* raw;
  batch_norm norm;

  [[nodiscard]] __device__ T const* plane() const { return raw; }
  /// What becomes of eight channels from `first` on.
  [[nodiscard]] static __device__ eight_activations change(float const* table, int first) {
    return {table, hidden, first};
  }
  __device__ void fill(float* table, int c) const { eight_activations::fill(table, hidden, norm, c); }
  __device__ void load(std::uint32_t to, tile_type const& tile, int thread) const {
    stem::load_halo<Block>(to, raw, tile, thread);
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
  static constexpr bool patches = Patches, changes = false;
  T const* gradient;

  [[nodiscard]] __device__ T const* plane() const { return gradient; }
  __device__ void fill(float*, int) const {}
  __device__ void load(std::uint32_t to, tile_type const& tile, int thread) const {
    stem::load_halo<Block, Patches>(to, gradient, tile, thread);
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
  template <int Rows>
  __device__ inputs read(int, int, int, int) const {
    return {};
  }
  template <class Sums>
  __device__ void store(Sums const& s, inputs const&, float const*, eight_sums& sums, int b, int y, int x,
                        int channel) const {
    stem::for_own_pixels<G, Sums::rows>(y, x, [&](int r, int half, int column) {
      float v[8];
      lane_sums(s, r, half, v);
      auto* const to =
          reinterpret_cast<uint4*>(raw + stem::plane_position<G, Patches>(b, y + r, column) * G::hidden + channel);
      __stcg(to, round_and_sum<T>(v, sums));  // the compiler makes four stores of a plain one
    });
  }
};

/// Backward: the gradient of the BatchNorm before this convolution, whose input `raw` is, and its sums.
template <class G, class T>
struct masked_sink {
  stem_number<T> const* raw;
  batch_norm norm;
  T* dz;
  float* parts;  ///< [parts, 2, hidden]

  /// What a lane reads of `raw`.
  template <int Rows>
  struct inputs {
    uint4 raw[Rows][2];
  };
  __device__ void fill(float* table, int c) const { eight_masks::fill(table, G::hidden, norm, c); }
  template <int Rows>
  __device__ inputs<Rows> read(int b, int y, int x, int channel) const {
    inputs<Rows> in{};
    stem::for_own_pixels<G, Rows>(y, x, [&](int r, int half, int column) {
      in.raw[r][half] =
          *reinterpret_cast<uint4 const*>(raw + stem::plane_position<G, false>(b, y + r, column) * G::hidden + channel);
    });
    return in;
  }
  template <class Sums>
  __device__ void store(Sums const& s, inputs<Sums::rows> const& in, float const* table, eight_sums& sums, int b, int y,
                        int x, int channel) const {
    eight_masks const eight{table, G::hidden, channel};
    stem::for_own_pixels<G, Sums::rows>(y, x, [&](int r, int half, int column) {
      float v[8];
      lane_sums(s, r, half, v);
      auto* const to =
          reinterpret_cast<uint4*>(dz + stem::plane_position<G, false>(b, y + r, column) * G::hidden + channel);
      __stcg(to, eight.apply<T>(v, in.raw[r][half], sums));  // the compiler makes four stores of a plain one
    });
  }
};

}  // namespace dm2::cuda::detail::stem_train
