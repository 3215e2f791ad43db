/// @file
/// A warp's tile of a plane: its bias and its store.
///
/// What the stem's convolutions share.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

/// Pixel (y, x) of picture b in memory, in units of `hidden` numbers: [B, H, W], or patch after patch, so that the
/// projection's operand is a plain matrix.
template <class G, bool Patches>
__device__ inline std::ptrdiff_t plane_position(std::ptrdiff_t b, int y, int x) {
  if constexpr (Patches) {
    int const token = y / G::side * G::grid_width + x / G::side;
    return b * G::plane_pixels + (token * G::side + y % G::side) * G::side + x % G::side;
  } else {
    return b * G::plane_pixels + y * G::plane_width + x;
  }
}

/// A block's tile of a plane: 8 rows of 16 pixels, of picture b from pixel (y, x) on.
template <class G>
struct plane_tile {
  static constexpr int height = 8, width = 16;
  static constexpr int across = (G::plane_width + width - 1) / width, down = (G::plane_height + height - 1) / height;
  int b, y, x;

  /// Tile t of across down B.
  __device__ explicit plane_tile(int t)
      : b{t / (across * down)}, y{t / across % down * height}, x{t % across * width} {}
};

/// The accumulators of a warp: Rows rows of 16 pixels, warp_columns products of 8 channels.
template <int Hidden, int Rows>
struct plane_sums {
  static constexpr int rows = Rows, columns = warp_columns<Hidden>, channels = 8 * columns;
  float c[Rows][columns][4];

  /// The bias everywhere: bias points at this lane's first channel, aligned to 16 bytes.
  __device__ void start(float const* bias) {
#pragma unroll
    for (int p = 0; p < columns / 2; ++p) {
      float4 const v = *reinterpret_cast<float4 const*>(bias + 4 * p);
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        c[r][2 * p][0] = c[r][2 * p][2] = v.x, c[r][2 * p][1] = c[r][2 * p][3] = v.y;
        c[r][2 * p + 1][0] = c[r][2 * p + 1][2] = v.z, c[r][2 * p + 1][1] = c[r][2 * p + 1][3] = v.w;
      }
    }
  }

  /// += A B for each row r, A of rows first + r of `a`, B from this lane's fragments of a step of 16.
  template <class T, int N>
  __device__ void multiply(std::uint32_t const (&a)[N][4], int first, uint4 const* fragments) {
#pragma unroll
    for (int p = 0; p < columns / 2; ++p) {
      uint4 const b = fragments[p * 32];
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        mma<T>(c[r][2 * p], a[first + r], b.x, b.y);
        mma<T>(c[r][2 * p + 1], a[first + r], b.z, b.w);
      }
    }
  }
};

/// f(r, half, column) for each of the lane's pixels that is inside the plane: in row y + r of `Rows`, half by half of
/// 16 columns from x on.
template <class G, int Rows, class F>
__device__ __forceinline__ void for_own_pixels(int y, int x, F const& f) {
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int r = 0; r < Rows; ++r)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const column = x + fragment::row(lane, half);
      if (y + r < G::plane_height && column < G::plane_width) f(r, half, column);
    }
}

/// relu of the sums to rows [y, y + Rows), columns [x, x + 16) of picture b, where they are inside the plane. `channel`
/// is this lane's first.
template <class G, bool Patches, class T, int Rows>
__device__ inline void store_plane(plane_sums<G::hidden, Rows> const& s, T* out, int b, int y, int x, int channel) {
  constexpr int columns = warp_columns<G::hidden>;
  for_own_pixels<G, Rows>(y, x, [&](int r, int half, int column) {
    std::uint32_t v[columns];
#pragma unroll
    for (int n = 0; n < columns; ++n) v[n] = pack_relu<T>(s.c[r][n][2 * half], s.c[r][n][2 * half + 1]);
    T* const to = out + plane_position<G, Patches>(b, y + r, column) * G::hidden + channel;
    // A plain store becomes one for each of the words; whole ones took a 3 x 3 layer in training from 632 to 514 us.
    if constexpr (columns == 4)
      __stcg(reinterpret_cast<uint4*>(to), make_uint4(v[0], v[1], v[2], v[3]));
    else
      __stcg(reinterpret_cast<uint2*>(to), make_uint2(v[0], v[1]));
  });
}

/// Starts the copy of `Bytes` bytes of weights to shared memory by a block of Threads.
template <int Bytes, int Threads>
__device__ inline void copy_weights(std::uint32_t to, void const* from) {
  static_assert(Bytes % 16 == 0, "dm2::cuda::detail::stem::copy_weights: whole 16 bytes");
  for (int i = int(threadIdx.x) * 16; i < Bytes; i += Threads * 16)
    copy_async(to + unsigned(i), static_cast<char const*>(from) + i);
}

}  // namespace dm2::cuda::detail::stem
