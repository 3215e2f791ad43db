/// @file
/// A ring of tiles in shared memory: some warpgroups load, others multiply.
///
/// Of tiles of 8 x 16 pixels with their halo, in the stem's 3 x 3 convolutions for a Hopper.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/stem/plane.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// Warpgroups of a block that load, and that multiply: four together. In turn: one multiplies while another stores;
/// left alone, two that begin together also store together, and the tensor cores wait.
struct conv3_roles {
  int loaders, multipliers;
  bool in_turn;
};

/// Lanes of a warp that arrive at a ring's barriers: one, behind __syncwarp(). Where a warp is together nothing is left
/// of that in the machine code, and compute-sanitizer's racecheck, which reads it, reported what was so handed over.
/// With DM2_EVERY_LANE_ARRIVES each lane arrives for itself, and racecheck sees the order; the gradients of the 3 x 3
/// weights take 490 us for 455 then.
#ifdef DM2_EVERY_LANE_ARRIVES
inline constexpr int arriving_lanes = 32;
#else
inline constexpr int arriving_lanes = 1;
#endif

/// The barriers of a ring of tiles: tile n of a block is in stage n % stages.
template <class Block>
struct tile_ring {
  std::uint32_t phases;  ///< shared address

  /// One thread makes the barriers; the block's barrier follows.
  __device__ void init() const {
    for (int s = 0; s < Block::stages; ++s)
      init_phases(phases + unsigned(s * 16), 4 * arriving_lanes),
          init_phases(phases + unsigned(s * 16 + 8), Block::readers / 32 * arriving_lanes);
    publish_phases();
  }
  static __device__ int stage(int n) { return n % Block::stages; }
  /// Waits until tile n is there, and until its stage's tile before has been read.
  __device__ void wait_filled(int n) const { wait_phase(filled(n), unsigned(n / Block::stages) & 1); }
  __device__ void wait_read(int n) const { wait_phase(filled(n) + 8, unsigned(n / Block::stages + 1) & 1); }
  /// This warp has written its part of tile n, or does not read it any more.
  __device__ void fill(int n) const { arrive_once(filled(n)); }
  __device__ void release(int n) const { arrive_once(filled(n) + 8); }

 private:
  [[nodiscard]] __device__ std::uint32_t filled(int n) const { return phases + unsigned(stage(n) * 16); }
  static __device__ void arrive_once(std::uint32_t at) {
    if constexpr (arriving_lanes == 1) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive(at);
    } else {
      arrive(at);
    }
  }
};

/// The pieces of 16 bytes of a tile with its halo that one of 128 threads copies and changes: those of its column in
/// each row, then of the two columns behind the sixteenth.
template <class Block, bool Patches>
struct halo_part {
  using G = typename Block::geometry;
  using tile_type = typename Block::tile;
  static constexpr int rows = Block::halo_height, columns = Block::halo_width, count = rows + 2;
  static_assert(Block::pieces == 8 && columns == 18 && rows == 10, "dm2::cuda::detail::stem::halo_part: 8 x 16");
  int thread;

  [[nodiscard]] __device__ int row(int j) const { return j < rows ? j : (j - rows) * 8 + thread / 16; }
  [[nodiscard]] __device__ int column(int j) const { return j < rows ? thread / 8 : 16 + thread / 8 % 2; }
  /// Where piece j lies in the tile.
  [[nodiscard]] __device__ int offset(int j) const {
    int const c = column(j);
    return row(j) * Block::row_bytes + c * Block::pixel_bytes + (thread % 8 ^ Block::swap(c)) * 16;
  }
  /// Whether there is a piece j, and whether it is of the plane.
  [[nodiscard]] __device__ bool there(int j) const { return j + 1 < count || thread < 32; }
  [[nodiscard]] __device__ bool inside(tile_type const& tile, int j) const {
    return unsigned(tile.y - 1 + row(j)) < unsigned(G::plane_height) &&
           unsigned(tile.x - 1 + column(j)) < unsigned(G::plane_width);
  }

  /// Starts the copies, zeros outside the plane.
  template <class T>
  __device__ void load(std::uint32_t to, T const* in, tile_type const& tile) const {
    T const* const picture = in + std::ptrdiff_t{tile.b} * G::plane_pixels * G::hidden + thread % 8 * 8;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      if (!there(j)) continue;
      int const at = int(plane_position<G, Patches>(0, tile.y - 1 + row(j), tile.x - 1 + column(j)));
      copy_async(to + unsigned(offset(j)), picture + std::ptrdiff_t{at} * G::hidden, inside(tile, j));
    }
  }
  /// Changes the pieces in the plane, half of them at a time, so that their latencies overlap. What is outside is
  /// changed, too, and left where it is: a branch around it would keep the pieces one after another.
  template <class Change>
  __device__ void change(unsigned char* at, tile_type const& tile, Change const& change) const {
    constexpr int half = count / 2;
#pragma unroll
    for (int first = 0; first < count; first += half) {
      uint4 v[half];
#pragma unroll
      for (int j = 0; j < half; ++j)
        v[j] = there(first + j) ? *reinterpret_cast<uint4 const*>(at + offset(first + j)) : uint4{};
#pragma unroll
      for (int j = 0; j < half; ++j) {
        uint4 const changed = change(v[j]);
        if (there(first + j) && inside(tile, first + j)) *reinterpret_cast<uint4*>(at + offset(first + j)) = changed;
      }
    }
  }
};

/// The turns of the warpgroups that multiply: tile n's products begin when those of tile n - 1 are all under way.
template <class Block>
struct product_turns {
  int n, count;

  __device__ void wait() const {
    if (Block::in_turn && n > 0) barrier<256>(n % Block::multipliers);
  }
  __device__ void pass() const {
    if (Block::in_turn && n + 1 < count) arrive<256>((n + 1) % Block::multipliers);
  }
};

}  // namespace dm2::cuda::detail::stem
