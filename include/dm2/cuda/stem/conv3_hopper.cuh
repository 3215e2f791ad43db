/// @file
/// The stem's 3 x 3 convolutions for a Hopper.
///
/// conv3.cuh with the products of a warpgroup.
///
/// A warpgroup has a tile of 8 x 16 pixels, a warp two rows of it and all channels. A row of 16 pixels, read once as a
/// fragment, serves the products of all three rows of taps; the weights, 8 KB a tap, are read from shared memory by the
/// products themselves: 106 bytes a cycle for the 128 that it has, at the products' full rate.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// Three warpgroups, each with two buffers, around the weights of 64 channels.
template <class G>
struct conv3_hopper_block : conv3_block<G, conv3_wide> {
  using base = conv3_block<G, conv3_wide>;
  static constexpr bool possible = G::hidden == 64;
  static constexpr int rows = 2;  ///< of pixels, of a warp
  static constexpr int tap_bytes =
      64 * 128;  ///< a tap's weights, swizzled as in instructions/tma.cuh: output channel, input channel
  static constexpr int alignment = 1024;  ///< of them
  static constexpr int shared_bytes = base::shared_bytes + alignment;
};

/// A warp's sums: of each of two rows of pixels, those that a lane has of eight columns of channels after another.
struct hopper_plane_sums {
  float c[2][32];

  /// The half of the channels from 32 `across` on, as plane.cuh has them.
  template <class G>
  __device__ __forceinline__ plane_sums<G::hidden, 2> half(int across) const {
    plane_sums<G::hidden, 2> s;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 16; ++i) s.c[r][i / 4][i % 4] = c[r][across * 16 + i];
    return s;
  }
  /// The bias of the lane's channels.
  template <class G>
  __device__ __forceinline__ void start(float const* bias, int lane) {
#pragma unroll
    for (int across = 0; across < 2; ++across) {
      plane_sums<G::hidden, 2> s;
      s.start(bias + across * 32 + fragment::column<8>(lane));
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int i = 0; i < 16; ++i) c[r][across * 16 + i] = s.c[r][i / 4][i % 4];
    }
  }
  /// store_plane of all channels.
  template <class G, bool Patches, class T>
  __device__ __forceinline__ void store(T* out, int b, int y, int x, int lane) const {
#pragma unroll
    for (int across = 0; across < 2; ++across)
      store_plane<G, Patches>(half<G>(across), out, b, y, x, across * 32 + fragment::column<8>(lane));
  }
};

/// Weights in the order of conv3_layout to where products read them, tap (dx, dy) at (3 dx + dy) tap_bytes.
template <class Block>
__device__ inline void spread_weights(unsigned char* to, void const* weights) {
  uint4 const* const from = static_cast<uint4 const*>(weights);
  for (int i = int(threadIdx.x); i < Block::weight_bytes / 16; i += Block::threads) {
    int const lane = i % 32, column = i / 32 % 4 * 16 + fragment::row(lane), k = i / 128 / 3 % 4,
              tap = i / 128 / 12 * 3 + i / 128 % 3;
    uint4 const v = from[i];
    std::uint32_t const word[4]{v.x, v.y, v.z, v.w};  // columns from 0 and 8, of each channels from 0 and 8
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      int const n = column + w / 2 * 8, piece = (2 * k + w % 2) ^ (n % 8);
      *reinterpret_cast<std::uint32_t*>(to + tap * Block::tap_bytes + n * 128 + piece * 16 +
                                        fragment::column(lane) * 2) = word[w];
    }
  }
}

/// For warpgroups that multiply whenever they can.
struct any_turn {
  __device__ void wait() const {}
  __device__ void pass() const {}
};

/// s += the tile's convolution. `tile` points at the warp's first row above its pixels; fragments of a step are read
/// while the step before is multiplied. turns.wait() comes before the first product, turns.pass() behind the last one.
template <class Block, class T, class Turns = any_turn>
__device__ __forceinline__ void convolve3_hopper(hopper_plane_sums& s, std::uint32_t tile, std::uint32_t weights,
                                                 Turns const& turns = {}) {
  constexpr int depth = Block::hidden / 16, steps = 3 * depth;
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t a[2][Block::rows + 2][4];
  auto const load = [&](int step) {
    // The three columns' addresses stay in registers; those of all twelve steps do not fit beside the sums.
    int const column = lane % 16 + step / depth;
    std::uint32_t const first = tile + unsigned(column * Block::pixel_bytes + (lane / 16 ^ Block::swap(column)) * 16);
    std::uint32_t const at = first ^ unsigned(step % depth * 32);
#pragma unroll
    for (int r = 0; r < Block::rows + 2; ++r) load_matrix(a[step % 2][r], at + unsigned(r * Block::row_bytes));
  };
  load(0);
  turns.wait();
  hold(s.c[0]), hold(s.c[1]);
#pragma unroll
  for (int step = 0; step < steps; ++step) {
    fence_products();
#pragma unroll
    for (int dy = 0; dy < 3; ++dy) {
      std::uint64_t const b =
          further(product_operand(weights + unsigned((step / depth * 3 + dy) * Block::tap_bytes)), step % depth);
#pragma unroll
      for (int r = 0; r < Block::rows; ++r) multiply_plane<T>(s.c[r], a[step % 2][r + dy], b);
    }
    commit_products();
    if (step + 1 < steps) {
      wait_products<1>();  // the step before this one, whose fragments give way
      load(step + 1);
    }
  }
  turns.pass();
  wait_products<0>();
  hold(s.c[0]), hold(s.c[1]);
}

}  // namespace dm2::cuda::detail::stem
