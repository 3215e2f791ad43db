/// @file
/// Columns of tiles in the scan's backward in the quadratic form.
///
/// Which warp has which tiles, and what it does down its columns for a unit. See backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// The tiles of a warp. With h half the number of columns, an even warp 2 j has the tile on the diagonal of column
/// j <= h and the h below it. The odd warp 2 j + 1 has first the rest of column j, its share of it, and then column
/// 2 h - j, so that all have as many; an even number of columns has no column 2 h.
struct warp_columns {
  int own;     ///< the column that the warp finishes; negative where there is none
  int first;   ///< the one that it begins with
  int shared;  ///< how many tiles it has of a column that another finishes; negative where it has none
  int below;   ///< tiles below the diagonal, of both

  __device__ warp_columns(int warp, int tiles) {
    int const half = tiles / 2, column = warp / 2, mirrored = 2 * half - column;
    bool const odd = (warp & 1) != 0;
    own = !odd ? column : mirrored < tiles ? mirrored : -1;
    first = column;
    shared = odd ? tiles - 1 - column - half : -1;
    below = !odd ? min(half, tiles - 1 - column) : shared + (own < 0 ? 0 : tiles - 1 - own);
  }
  /// Whether another warp has a share of the own column.
  [[nodiscard]] __device__ static bool given(int warp, int tiles) { return (warp & 1) == 0 && warp / 2 < tiles / 2; }

  /// tile(slot, row, index) for each tile below the diagonal, down the columns; turn() between the two. `index` counts
  /// such tiles in the order of rows. Slots are constants once this is unrolled.
  template <int Slots, class F, class G>
  __device__ void each(int tiles, F const& tile, G const& turn) const {
    int row = shared < 0 ? first + 1 : tiles - shared, index = tiles_below(row) + first;
#pragma unroll
    for (int s = 0; s < Slots; ++s) {
      if (s == shared) turn(), row = own + 1, index = tiles_below(own + 1) + own;
      if (s < below) tile(s, row, index);
      index += row, ++row;
    }
    if (shared == Slots) turn();
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

/// A warp's tiles to shared memory.
template <class Tr>
__device__ inline void store_tiles(backward_quadratic_block<Tr> const& k, tile_sums<Tr> const& sums) {
  using T = typename Tr::element;
  warp_columns const columns{k.warp, k.at.tiles};
  if (columns.own >= 0) store_tile<T>(k.tile(columns.own, columns.own), sums.diagonal, k.lane);
  columns.each<Tr::slots>(
      k.at.tiles,
      [&](int s, int row, int index) {
        store_tile<T>(k.shared + (index + row) * fragment_bytes, sums.below[s], k.lane);
      },
      [] {});
}

/// Where a lane finds a unit's operands in shared memory: at tile 0, in bytes from the block's first.
template <class Tr>
struct unit_place {
  std::uint32_t rows, across;  ///< of dy as column_operand and as row_operand, addresses
  int c;                       ///< of columns 2 t
  int scores;                  ///< as load_matrix takes them
  int parts;                   ///< of the sums of Gamma over j

  __device__ unit_place(backward_quadratic_block<Tr> const& k, int unit)
      : rows{shared_address(k.dy(unit)) + k.column_operand(Tr::pitch)},
        across{shared_address(k.dy(unit)) + k.row_operand(Tr::pitch)},
        c{int(reinterpret_cast<unsigned char*>(k.vectors(unit).c) - k.shared) + fragment::column(unsigned(k.lane)) * 4},
        scores{k.lane * 16},
        parts{int(reinterpret_cast<unsigned char*>(k.row_parts(unit, 0, 0)) - k.shared) + k.lane * 8} {}
};

/// A column of a unit on its way down: 16 tokens j.
template <class Tr>
struct column_walk {
  using T = typename Tr::element;
  std::uint32_t x[Tr::steps][4];  ///< as A fragments
  float u[1][Tr::slice / 8][4];   ///< U, without the decay of each j up to the end of the 16
  float rest_step[2];             ///< of j = g and g + 8
  float end;                      ///< c at the end of the 16

  __device__ void start(backward_quadratic_block<Tr> const& k, int unit, int column) {
    auto const v = k.vectors(unit);
    int const token = column * 16 + fragment::row(unsigned(k.lane));
    load_rows(x, shared_address(k.x(unit) + column * 16 * Tr::pitch) + k.row_operand(Tr::pitch));
    rest_step[0] = v.rest_step[token], rest_step[1] = v.rest_step[token + 8];
    end = v.c[column * 16 + 15];
#pragma unroll
    for (int i = 0; i < Tr::slice / 2; ++i) u[0][i / 4][i % 4] = 0;
  }

  /// The tile of 16 rows i below: its part of dG and of U, and of the sums of Gamma over j. `index` counts the tiles
  /// below the diagonal in the order of rows.
  __device__ void descend(backward_quadratic_block<Tr> const& k, unit_place<Tr> const& place, int row, int index,
                          float (&gradient)[2][4]) {
    float w[2][4] = {};
    multiply_rows<T>(w, x, place.rows + std::uint32_t(row * (16 * Tr::pitch)));
    std::uint32_t s[4], a[1][4];
    load_matrix(s, shared_address(k.shared) + std::uint32_t(place.scores + (index + row) * fragment_bytes));
    float gamma[4];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float2 const at = *reinterpret_cast<float2 const*>(k.shared + place.c + row * 64 + n * 32);
      float2 const decay{exp2_fast(at.x - end), exp2_fast(at.y - end)};
      float2 sum{0, 0};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 const score = unpack<T>(s[2 * n + half]);
        float2 const decayed{score.x * decay.x, score.y * decay.y};
        float const first = w[n][2 * half] * rest_step[half], second = w[n][2 * half + 1] * rest_step[half];
        gradient[n][2 * half] = fmaf(decay.x, first, gradient[n][2 * half]);
        gradient[n][2 * half + 1] = fmaf(decay.y, second, gradient[n][2 * half + 1]);
        sum = {fmaf(decayed.x, first, sum.x), fmaf(decayed.y, second, sum.y)};
        a[0][2 * n + half] = pack<T>(decayed.x, decayed.y);
      }
      gamma[2 * n] = sum.x, gamma[2 * n + 1] = sum.y;
    }
    multiply_x<T, 0, 1, Tr::slice>(u, a, place.across + std::uint32_t(row * (16 * Tr::pitch)));
    *reinterpret_cast<float2*>(k.shared + place.parts + index * 256) = half_of_rows(k, gamma);
  }

  /// Half of the sums over lanes that a row of Gamma takes; the other half is taken with all tiles of the row at once.
  [[nodiscard]] __device__ static float2 half_of_rows(backward_quadratic_block<Tr> const& k, float const (&gamma)[4]) {
    bool const upper = (k.lane & 16) != 0;
    float2 kept{upper ? gamma[2] : gamma[0], upper ? gamma[3] : gamma[1]};
    kept.x += __shfl_xor_sync(~0u, upper ? gamma[0] : gamma[2], 16);
    kept.y += __shfl_xor_sync(~0u, upper ? gamma[1] : gamma[3], 16);
    return kept;
  }

  [[nodiscard]] __device__ unsigned char* share(backward_quadratic_block<Tr> const& k, int column) const {
    return k.shared + k.at.shares + column * backward_quadratic_layout<Tr>::share_bytes;
  }
  /// Leaves what the warp has of a column that another finishes.
  __device__ void give(backward_quadratic_block<Tr> const& k, int column) const {
    auto* const to = reinterpret_cast<float4*>(share(k, column)) + k.lane;
#pragma unroll
    for (int n = 0; n < Tr::slice / 8; ++n) to[n * 32] = {u[0][n][0], u[0][n][1], u[0][n][2], u[0][n][3]};
    arrive<64>(column);
  }
  __device__ void take(backward_quadratic_block<Tr> const& k, int column) {
    barrier<64>(column);
    auto const* const from = reinterpret_cast<float4 const*>(share(k, column)) + k.lane;
#pragma unroll
    for (int n = 0; n < Tr::slice / 8; ++n) {
      float4 const v = from[n * 32];
      u[0][n][0] += v.x, u[0][n][1] += v.y, u[0][n][2] += v.z, u[0][n][3] += v.w;
    }
  }

  /// This lane's part of x_j . U_j over the tiles below, for j = g and g + 8.
  __device__ void dot(float (&later)[2]) const {
#pragma unroll
    for (int n = 0; n < Tr::slice / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 const value = unpack<T>(x[n >> 1][2 * (n & 1) + half]);
        later[half] = fmaf(value.x, u[0][n][2 * half], fmaf(value.y, u[0][n][2 * half + 1], later[half]));
      }
  }
};

/// For a tile on the diagonal, Gamma_ij of which comes transposed as quadrants of accumulators: rows j 0 to 7 of
/// columns i 0 to 7 and 8 to 15, rows 8 to 15 of columns 8 to 15. This lane's part, over its rows, of the sums over
/// i >= t > j for the t of its four columns. The sums over i are a product with a triangle of ones, Gamma in two parts
/// of 8 bits.
__device__ inline float4 column_rectangle_parts(float2 const (&gamma)[3], int lane) {
  using T = __nv_bfloat16;
  int const g = fragment::row(unsigned(lane)), t = fragment::quarter(unsigned(lane));
  std::uint32_t const ones = pack<T>(1, 1), from = pack<T>(2 * t >= g ? 1.f : 0.f, 2 * t + 1 >= g ? 1.f : 0.f);
  float r[2][4] = {};
  float2 left[3] = {gamma[0], gamma[1], gamma[2]};
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    std::uint32_t v[3];
#pragma unroll
    for (int q = 0; q < 3; ++q) {
      v[q] = pack<T>(left[q].x, left[q].y);
      float2 const taken = unpack<T>(v[q]);
      left[q].x -= taken.x, left[q].y -= taken.y;
    }
    std::uint32_t const a[4] = {v[0], 0, v[1], v[2]};
    mma<T>(r[0], a, from, ones);
    mma<T>(r[1], a, 0, from);
  }
  bool const first = g < 2 * t, second = g < 2 * t + 1;
  return {first ? r[0][0] : 0.f, second ? r[0][1] : 0.f, r[1][0] + (first ? r[1][2] : 0.f),
          r[1][1] + (second ? r[1][3] : 0.f)};
}

/// This lane's parts of sums over a tile on the diagonal.
struct diagonal_parts {
  float4 inside;    ///< as column_rectangle_parts
  float output[2];  ///< of x . U, for j = g and g + 8
  float skip;       ///< of dy . x
};

/// The tile on the diagonal of a column: every decay by itself, and the decayed scores are times dt and have D on their
/// diagonal, so that u becomes dx. Adds to dG.
template <class Tr>
__device__ inline diagonal_parts end_column(backward_quadratic_block<Tr> const& k, int unit, int column,
                                            column_walk<Tr>& down, float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), t0 = column * 16;
  auto const v = k.vectors(unit);
  std::uint32_t const dy = shared_address(k.dy(unit) + t0 * Tr::pitch);
  float w[2][4] = {};
  multiply_rows<T>(w, down.x, dy + k.column_operand(Tr::pitch));
  std::uint32_t s[4], a[1][4];
  load_matrix(s, shared_address(k.tile(column, column)) + k.lane * 16);
  float const direct = k.skip(unit);
  float const from[2] = {v.c[t0 + g], v.c[t0 + g + 8]}, step[2] = {v.dt[t0 + g], v.dt[t0 + g + 8]};
  float2 gamma[3];
  diagonal_parts parts{{}, {0, 0}, 0};
#pragma unroll
  for (int q = 0; q < 3; ++q) {  // quadrants
    int const half = q >> 1, n = (q + 1) >> 1;
    float2 const at = *reinterpret_cast<float2 const*>(v.c + t0 + 8 * n + 2 * t);
    float2 const score = unpack<T>(s[2 * n + half]);
    float2 decay{exp2_fast(at.x - from[half]), exp2_fast(at.y - from[half])}, add{0, 0};
    if (n == half) {  // a choice, not a factor: above the diagonal the exponential may be infinite
      decay = {2 * t >= g ? decay.x : 0.f, 2 * t + 1 >= g ? decay.y : 0.f};
      add = {2 * t == g ? direct : 0.f, 2 * t + 1 == g ? direct : 0.f};
      parts.skip += 2 * t == g ? w[n][2 * half] : 2 * t + 1 == g ? w[n][2 * half + 1] : 0.f;
    }
    float const x = decay.x * w[n][2 * half], y = decay.y * w[n][2 * half + 1];
    gradient[n][2 * half] = fmaf(step[half], x, gradient[n][2 * half]);
    gradient[n][2 * half + 1] = fmaf(step[half], y, gradient[n][2 * half + 1]);
    float2 const output{score.x * x, score.y * y};
    parts.output[half] += output.x + output.y;
    gamma[q] = {output.x * step[half], output.y * step[half]};
    a[0][2 * n + half] =
        pack<T>(fmaf(score.x * decay.x, step[half], add.x), fmaf(score.y * decay.y, step[half], add.y));
  }
  a[0][1] = 0;
  scale_rows(down.u[0], down.rest_step[0], down.rest_step[1]);
  multiply_x<T, 0, 1, Tr::slice>(down.u, a, dy + k.row_operand(Tr::pitch));
  parts.inside = column_rectangle_parts(gamma, k.lane);
  return parts;
}

/// To shared memory what the tokens of a column need later: token_sums.
template <class Tr>
__device__ inline void store_sums(backward_quadratic_block<Tr> const& k, int unit, int column,
                                  diagonal_parts const& parts, float const (&later)[2]) {
  int const t = fragment::quarter(unsigned(k.lane)), token = column * 16 + fragment::row(unsigned(k.lane), t & 1);
  auto const v = k.vectors(unit);
  auto const to = k.sums(unit);
  float const inside[4] = {parts.inside.x, parts.inside.y, parts.inside.z, parts.inside.w};
  float sum = fold<4, 16>(inside, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 4);
  if ((k.lane & 4) == 0) to.inside[column * 16 + (k.lane >> 4) * 8 + 2 * t + (k.lane >> 3 & 1)] = sum;
  float after = fold<2, 1>(later, k.lane), output = fold<2, 1>(parts.output, k.lane);
  after += __shfl_xor_sync(~0u, after, 2), output += __shfl_xor_sync(~0u, output, 2);
  if (t < 2) {
    to.after[token] = after * v.rest_step[token];
    to.output[token] = fmaf(after, v.rest[token], output);
  }
  float const skip = sum_over_warp(parts.skip);
  if (k.lane == 0) to.skip[column] = skip;
}

/// dx of the column's 16 tokens, over x in shared memory and from there to global memory.
template <class Tr>
__device__ inline void write_dx(backward_quadratic_block<Tr> const& k, int unit, int column,
                                float const (&dx)[Tr::slice / 8][4]) {
  int const t0 = column * 16;
  unsigned char* const x = k.x(unit) + t0 * Tr::pitch;
  __syncwarp();  // every lane has its fragments of x
#pragma unroll
  for (int n = 0; n < Tr::slice / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(x + fragment::row(unsigned(k.lane), half) * Tr::pitch + n * 16 +
                                        fragment::column(unsigned(k.lane)) * 2) =
          pack<typename Tr::element>(dx[n][2 * half], dx[n][2 * half + 1]);
  write_rows<Tr::slice>(x, k.p.dx + k.row(t0) * std::size_t(k.p.dx_stride) + k.column(unit), k.p.dx_stride,
                        k.p.length - t0, k.lane);
}

/// The block, of whose lane the compiler knows nothing more: what depends on it is computed from here on, not kept in
/// registers over the tiles before. Operands that are there without a choice of their place leave it the room to.
template <class Tr>
[[nodiscard]] __device__ inline backward_quadratic_block<Tr> afresh(backward_quadratic_block<Tr> k) {
  if constexpr (Tr::projected) hide(k.lane);
  return k;
}

/// Every tile of the warp for one unit.
template <class Tr>
__device__ inline void unit_columns(backward_quadratic_block<Tr> const& k, int unit, tile_sums<Tr>& gradient) {
  int const warp = __shfl_sync(~0u, k.warp, 0);  // so that the compiler knows that lanes do not part
  warp_columns const columns{warp, k.at.tiles};
  unit_place<Tr> const place{k, unit};
  column_walk<Tr> down;
  down.start(k, unit, columns.first);
  columns.each<Tr::slots>(
      k.at.tiles, [&](int s, int row, int index) { down.descend(k, place, row, index, gradient.below[s]); },
      [&] {
        auto const here = afresh(k);
        down.give(here, columns.first);
        if (columns.own >= 0) down.start(here, unit, columns.own);
      });
  if (columns.own < 0) return;
  auto const end = afresh(k);
  if (warp_columns::given(warp, k.at.tiles)) down.take(end, columns.own);
  float later[2] = {};
  down.dot(later);
  auto const parts = end_column(end, unit, columns.own, down, gradient.diagonal);
  store_sums(end, unit, columns.own, parts, later);
  write_dx(end, unit, columns.own, down.u[0]);
}

}  // namespace dm2::cuda::detail::ssd
