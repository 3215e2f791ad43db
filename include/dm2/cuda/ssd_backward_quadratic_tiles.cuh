/// @file
/// The scan's backward in the quadratic form, what is computed tile by tile: scores, their decay, their gradient, and
/// the sums over tiles from which the gradient of the decays comes. See ssd_backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/pack.cuh>
#include <dm2/cuda/ssd_backward_quadratic_block.cuh>

namespace dm2::cuda::detail::scan {

/// The tiles below the diagonal that a warp has: neighbours in the order of rows.
template <class Tr>
struct warp_tiles {
  int count;  ///< how many
  int place;  ///< the first one's row and column, in a register

  __device__ explicit warp_tiles(backward_quadratic_block<Tr> const& k) {
    int const all = tiles_below(k.at.tiles), each = (all + Tr::warps - 1) / Tr::warps, before = k.warp * each;
    int row = 1;
    while (tiles_below(row + 1) <= before) ++row;
    count = min(each, all - before);
    place = row << 8 | (before - tiles_below(row));
  }
  /// f(slot, row, column, whether the row is another than the slot's before) for each; slots are constants once this is
  /// unrolled.
  template <class F>
  __device__ void each(F const& f) const {
    int at = place;
    hide(at);  // else the addresses of all tiles are kept in registers over the loop over units
    int i = at >> 8, j = at & 255;
#pragma unroll
    for (int s = 0; s < Tr::slots; ++s) {
      if (s < count) f(s, i, j, s == 0 || j == 0);
      if (++j == i) ++i, j = 0;
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
  tiles.each([&](int s, int i, int j, bool) { store_tile<T>(k.tile(to, i, j), sums.below[s], k.lane); });
}

/// The sum over the four lanes of a row of accumulators.
__device__ inline float add_quad(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}
/// The sum over the rows, of one column of lanes.
__device__ inline float add_rows(float v) {
  v += __shfl_xor_sync(~0u, v, 4);
  v += __shfl_xor_sync(~0u, v, 8);
  return v + __shfl_xor_sync(~0u, v, 16);
}

/// Tile (i, j) below the diagonal of a unit, with `rows` dy of the tile's rows: its decayed scores, without the decay
/// up to the end of tile j; adds to its gradient; the sums of Gamma over its rows and over all of it.
template <class Tr>
__device__ inline void tile_below(backward_quadratic_block<Tr> const& k, int unit, int i, int j,
                                  std::uint32_t const (&rows)[Tr::steps][4], float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const g = k.lane >> 2, t = k.lane & 3;
  decay_vectors<Tr> const v{k.shared, k.at, unit};
  float w[2][4] = {};
  multiply_rows<T>(w, rows, shared_address(k.x(unit) + j * 16 * Tr::pitch) + k.column_operand(Tr::pitch));
  std::uint32_t s[4];
  load_matrix(s, shared_address(k.tile(0, i, j)) + k.lane * 16);
  float const end = v.c[j * 16 + 15];
  float const decay[2] = {exp2_fast(v.c[i * 16 + g] - end), exp2_fast(v.c[i * 16 + g + 8] - end)};
  float gamma[2] = {};
  unsigned char* const decayed = k.tile(k.at.decayed, i, j) + k.lane * 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float2 const rest = *reinterpret_cast<float2 const*>(v.rest_step + j * 16 + 8 * n + 2 * t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const score = unpack<T>(s[2 * n + half]);
      float const first = w[n][2 * half] * rest.x, second = w[n][2 * half + 1] * rest.y;
      gradient[n][2 * half] = fmaf(decay[half], first, gradient[n][2 * half]);
      gradient[n][2 * half + 1] = fmaf(decay[half], second, gradient[n][2 * half + 1]);
      gamma[half] = fmaf(score.x, first, fmaf(score.y, second, gamma[half]));
      *reinterpret_cast<std::uint32_t*>(decayed + (2 * n + half) * 128) =
          pack<T>(score.x * decay[half], score.y * decay[half]);
    }
  }
  float const low = add_quad(gamma[0] * decay[0]), high = add_quad(gamma[1] * decay[1]);
  int const index = tiles_below(i) + j;
  if (t < 2) reinterpret_cast<float*>(k.shared + k.at.row_sums)[index * 16 + 8 * t + g] = t == 0 ? low : high;
  float const all = add_rows(low + high);
  if (k.lane == 0) reinterpret_cast<float*>(k.shared + k.at.tile_sums)[index] = all;
}

/// v of this row and of all rows below in the tile's half.
__device__ inline float2 add_rows_below(float2 v, int lane) {
#pragma unroll
  for (int o = 4; o < 32; o *= 2) {
    float const x = __shfl_down_sync(~0u, v.x, o), y = __shfl_down_sync(~0u, v.y, o);
    if (lane + o < 32) v.x += x, v.y += y;
  }
  return v;
}

/// For a tile on the diagonal and its rows t = g and g + 8: the sums of Gamma_ij over i >= t > j. Gamma comes as the
/// accumulators' quadrants: rows 0 to 7 of columns 0 to 7, rows 8 to 15 of columns 0 to 7 and of columns 8 to 15.
__device__ inline float2 rectangle_sums(float2 top, float2 bottom, float2 corner, int lane) {
  int const g = lane >> 2, t = lane & 3;
  top = add_rows_below(top, lane), bottom = add_rows_below(bottom, lane), corner = add_rows_below(corner, lane);
  float2 const all{__shfl_sync(~0u, bottom.x, t), __shfl_sync(~0u, bottom.y, t)};
  bool const first = 2 * t < g, second = 2 * t + 1 < g;
  float const low = (first ? top.x + all.x : 0.f) + (second ? top.y + all.y : 0.f);
  float const high = bottom.x + bottom.y + (first ? corner.x : 0.f) + (second ? corner.y : 0.f);
  return {add_quad(low), add_quad(high)};
}

/// The tile of the warp on the diagonal: as tile_below, but every decay by itself, and the tile's sums of Gamma over
/// rectangles and of dy x.
template <class Tr>
__device__ inline void tile_on_diagonal(backward_quadratic_block<Tr> const& k, int unit, float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const g = k.lane >> 2, t = k.lane & 3, t0 = k.warp * 16;
  decay_vectors<Tr> const v{k.shared, k.at, unit};
  std::uint32_t rows[Tr::steps][4], s[4];
  load_rows(rows, shared_address(k.dy(unit) + t0 * Tr::pitch) + k.row_operand(Tr::pitch));
  float w[2][4] = {}, decayed[2][4] = {};
  multiply_rows<T>(w, rows, shared_address(k.x(unit) + t0 * Tr::pitch) + k.column_operand(Tr::pitch));
  load_matrix(s, shared_address(k.tile(0, k.warp, k.warp)) + k.lane * 16);
  float2 gamma[3];
  float skip = 0;
#pragma unroll
  for (int q = 0; q < 3; ++q) {  // quadrants: top, bottom, corner
    int const n = q >> 1, half = (q + 1) >> 1;
    float const c = v.c[t0 + g + 8 * half];
    float2 const from = *reinterpret_cast<float2 const*>(v.c + t0 + 8 * n + 2 * t);
    float2 const step = *reinterpret_cast<float2 const*>(v.dt + t0 + 8 * n + 2 * t);
    float2 decay{exp2_fast(c - from.x), exp2_fast(c - from.y)};
    float const first = w[n][2 * half], second = w[n][2 * half + 1];
    if (n == half) {  // a choice, not a factor: above the diagonal the exponential may be infinite
      decay = {2 * t <= g ? decay.x : 0.f, 2 * t + 1 <= g ? decay.y : 0.f};
      skip += 2 * t == g ? first : 2 * t + 1 == g ? second : 0.f;
    }
    float2 const score = unpack<T>(s[2 * n + half]);
    decayed[n][2 * half] = score.x * decay.x, decayed[n][2 * half + 1] = score.y * decay.y;
    float const x = decay.x * step.x * first, y = decay.y * step.y * second;
    gradient[n][2 * half] += x, gradient[n][2 * half + 1] += y;
    gamma[q] = {score.x * x, score.y * y};
  }
  store_tile<T>(k.tile(k.at.decayed, k.warp, k.warp), decayed, k.lane);
  float2 const sums = rectangle_sums(gamma[0], gamma[1], gamma[2], k.lane);
  skip = add_rows(add_quad(skip));
  if (t < 2) reinterpret_cast<float*>(k.shared + k.at.rectangles)[t0 + 8 * t + g] = t == 0 ? sums.x : sums.y;
  if (k.lane == 0) {
    float& total = k.totals(unit).y;
    total = unit % Tr::slices == 0 ? skip : total + skip;
  }
}

/// Every tile of the warp for one unit.
template <class Tr>
__device__ inline void unit_tiles(backward_quadratic_block<Tr> const& k, warp_tiles<Tr> const& tiles, int unit,
                                  tile_sums<Tr>& gradient) {
  if (k.has_tile()) tile_on_diagonal(k, unit, gradient.diagonal);
  std::uint32_t rows[Tr::steps][4];
  tiles.each([&](int s, int i, int j, bool another) {
    if (another) load_rows(rows, shared_address(k.dy(unit) + i * 16 * Tr::pitch) + k.row_operand(Tr::pitch));
    tile_below(k, unit, i, j, rows, gradient.below[s]);
  });
}

}  // namespace dm2::cuda::detail::scan
