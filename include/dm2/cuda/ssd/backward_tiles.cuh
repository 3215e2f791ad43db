/// @file
/// The scan's backward in the quadratic form, tiles below the diagonal: scores' decay, their gradient, and the sums over
/// rows from which the gradient of the decays comes. See backward_quadratic_launch.cuh. What is a template of the block's
/// type serves the chunks of backward_chunked_launch.cuh too.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>

namespace dm2::cuda::detail::scan {

/// A tile below the diagonal, and its number in the order of rows.
struct tile_place {
  int row, column, index;
};

/// The tiles below the diagonal that a warp has: neighbours in the order of rows.
template <class Tr>
struct warp_tiles {
  int count;  ///< how many
  int first;  ///< the first one's row and column, in a register

  __device__ explicit warp_tiles(backward_quadratic_block<Tr> const& k) {
    int const all = tiles_below(k.at.tiles), each = (all + Tr::warps - 1) / Tr::warps, before = k.warp * each;
    int row = 1;
    while (tiles_below(row + 1) <= before) ++row;
    count = min(each, all - before);
    first = row << 8 | (before - tiles_below(row));
  }
  /// f(slot, tile, whether the row is another than the slot's before) for each; slots are constants once this is
  /// unrolled.
  template <class F>
  __device__ void each(F const& f) const {
    int at = first;
    hide(at);  // else the addresses of all tiles are kept in registers over the loop over units
    tile_place tile{at >> 8, at & 255, tiles_below(at >> 8) + (at & 255)};
#pragma unroll
    for (int s = 0; s < Tr::slots; ++s) {
      if (s < count) f(s, tile, s == 0 || tile.column == 0);
      ++tile.index;
      if (++tile.column == tile.row) ++tile.row, tile.column = 0;
    }
  }
};

/// Accumulators of a warp's tiles: the one on the diagonal and those below.
template <class Tr>
struct tile_sums {
  float diagonal[2][4], below[Tr::slots][2][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) diagonal[i / 4][i % 4] = 0;
#pragma unroll
    for (int i = 0; i < 8 * Tr::slots; ++i) below[i / 8][i / 4 % 2][i % 4] = 0;
  }
};

/// Operands of a tile's rows, as A fragments.
template <int Steps>
__device__ inline void load_rows(std::uint32_t (&a)[Steps][4], std::uint32_t at) {
#pragma unroll
  for (int s = 0; s < Steps; ++s) load_matrix(a[s], at + s * 32);
}

/// w += a b^T for 16 rows b in memory.
template <class T, int Steps>
__device__ inline void multiply_rows(float (&w)[2][4], std::uint32_t const (&a)[Steps][4], std::uint32_t b) {
#pragma unroll
  for (int s = 0; s < Steps; ++s) {
    std::uint32_t v[4];
    load_matrix(v, b + s * 32);
    mma<T>(w[0], a[s], v[0], v[1]);
    mma<T>(w[1], a[s], v[2], v[3]);
  }
}

/// Accumulators of a tile, rounded, to its place.
template <class T>
__device__ inline void store_tile(unsigned char* tile, float const (&v)[2][4], int lane) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
    *reinterpret_cast<std::uint32_t*>(tile + m * 128 + lane * 4) =
        pack<T>(v[m >> 1][2 * (m & 1)], v[m >> 1][2 * (m & 1) + 1]);
}

/// A warp's tiles to shared memory from byte `to` on.
template <class Tr>
__device__ inline void store_tiles(backward_quadratic_block<Tr> const& k, warp_tiles<Tr> const& tiles,
                                   tile_sums<Tr> const& sums, int to) {
  using T = typename Tr::element;
  if (k.has_tile()) store_tile<T>(k.tile(to, k.warp, k.warp), sums.diagonal, k.lane);
  tiles.each(
      [&](int s, tile_place const& at, bool) { store_tile<T>(k.tile(to, at.row, at.column), sums.below[s], k.lane); });
}

/// Sums of N numbers over the lanes that differ in log2(N) bits of their number, the highest of them `Bit`. Each lane
/// gets one of the sums: the one that those bits say, the highest first. N - 1 exchanges.
template <int N, int Bit>
__device__ inline float fold(float const (&v)[N], int lane) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    float half[N / 2];
    bool const upper = (lane & Bit) != 0;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      float const given = upper ? v[i] : v[i + N / 2], kept = upper ? v[i + N / 2] : v[i];
      half[i] = kept + __shfl_xor_sync(~0u, given, Bit);
    }
    return fold<N / 2, Bit / 2>(half, lane);
  }
}

/// Operands of a tile's rows.
template <class Tr>
struct tile_rows {
  std::uint32_t dy[Tr::steps][4];
  float c[2];  ///< of rows g and g + 8

  template <class Block>
  __device__ void load(Block const& k, int unit, int row) {
    load_rows(dy, shared_address(k.dy(unit) + row * 16 * Tr::pitch) + k.row_operand(Tr::pitch));
    auto const v = k.vectors(unit);
    c[0] = v.c[row * 16 + (k.lane >> 2)], c[1] = v.c[row * 16 + (k.lane >> 2) + 8];
  }
};

/// A tile below the diagonal of a unit: its decayed scores, without the decay up to the end of the tile's columns; adds
/// to its gradient; this lane's part of the sums of Gamma over rows g and g + 8.
template <class Block, class Tr>
__device__ inline float2 tile_below(Block const& k, int unit, tile_place const& at, tile_rows<Tr> const& rows,
                                    float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const t = k.lane & 3;
  auto const v = k.vectors(unit);
  float w[2][4] = {};
  multiply_rows<T>(w, rows.dy, shared_address(k.x(unit) + at.column * 16 * Tr::pitch) + k.column_operand(Tr::pitch));
  unsigned char* const scores = k.shared + (at.index + at.row) * fragment_bytes;
  std::uint32_t s[4];
  load_matrix(s, shared_address(scores) + k.lane * 16);
  float const end = v.c[at.column * 16 + 15];
  float const decay[2] = {exp2_fast(rows.c[0] - end), exp2_fast(rows.c[1] - end)};
  float gamma[2] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float2 const rest = *reinterpret_cast<float2 const*>(v.rest_step + at.column * 16 + 8 * n + 2 * t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const score = unpack<T>(s[2 * n + half]);
      float const first = w[n][2 * half] * rest.x, second = w[n][2 * half + 1] * rest.y;
      gradient[n][2 * half] = fmaf(decay[half], first, gradient[n][2 * half]);
      gradient[n][2 * half + 1] = fmaf(decay[half], second, gradient[n][2 * half + 1]);
      gamma[half] = fmaf(score.x, first, fmaf(score.y, second, gamma[half]));
      *reinterpret_cast<std::uint32_t*>(scores + k.at.decayed + (2 * n + half) * 128 + k.lane * 4) =
          pack<T>(score.x * decay[half], score.y * decay[half]);
    }
  }
  return {gamma[0] * decay[0], gamma[1] * decay[1]};
}

/// The sums over rows of `Tiles` tiles, one or two, from their lanes' parts.
template <int Tiles, class Block>
__device__ inline void store_row_sums(Block const& k, int index, float2 first, float2 second) {
  float* const to = reinterpret_cast<float*>(k.shared + k.at.row_sums) + index * 16 + (k.lane >> 2);
  int const t = k.lane & 3;
  if constexpr (Tiles == 2) {
    float const v[4] = {first.x, first.y, second.x, second.y};
    to[8 * t] = fold<4, 2>(v, k.lane);
  } else {
    float const v[2] = {first.x, first.y};
    float sum = fold<2, 1>(v, k.lane);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (t < 2) to[8 * t] = sum;
  }
}

}  // namespace dm2::cuda::detail::scan
