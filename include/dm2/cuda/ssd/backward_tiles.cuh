/// @file
/// Tiles of 16 x 16 tokens in the scan's backward on tensor cores.
///
/// Below the diagonal: scores' decay, their gradient, and the sums over rows from which the gradient of the decays
/// comes; then the tiles on the diagonal; then what is finished for 16 tokens of a unit. See backward_quadratic.cuh.
/// What is a template of the block's type serves the chunks of backward_chunked.cuh too.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/tile/fragment.cuh>

namespace dm2::cuda::detail::ssd {

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

/// Operands of a tile's rows.
template <class Tr>
struct tile_rows {
  std::uint32_t dy[Tr::steps][4];
  float c[2];  ///< of rows g and g + 8

  template <class Block>
  __device__ void load(Block const& k, int unit, int row) {
    load_rows(dy, shared_address(k.dy(unit) + row * 16 * Tr::pitch) + k.row_operand(Tr::pitch));
    auto const v = k.vectors(unit);
    c[0] = v.c[row * 16 + fragment::row(unsigned(k.lane))], c[1] = v.c[row * 16 + fragment::row(unsigned(k.lane)) + 8];
  }
};

/// A tile below the diagonal of a unit: its decayed scores, without the decay up to the end of the tile's columns; adds
/// to its gradient; this lane's part of the sums of Gamma over rows g and g + 8.
template <class Block, class Tr>
__device__ inline float2 tile_below(Block const& k, int unit, tile_place const& at, tile_rows<Tr> const& rows,
                                    float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const t = fragment::quarter(unsigned(k.lane));
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
  float* const to = reinterpret_cast<float*>(k.shared + k.at.row_sums) + index * 16 + fragment::row(unsigned(k.lane));
  int const t = fragment::quarter(unsigned(k.lane));
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

/// For a tile on the diagonal, Gamma_ij of which comes as quadrants of accumulators: rows 0 to 7 of columns 0 to 7,
/// rows 8 to 15 of columns 0 to 7 and of columns 8 to 15. This lane's part, over its rows, of the sums over i >= t > j
/// for the t of its four columns. The sums over j are a product with a triangle of ones, Gamma in two parts of 8 bits.
__device__ inline float4 rectangle_parts(float2 const (&gamma)[3], int lane) {
  using T = __nv_bfloat16;
  int const g = fragment::row(unsigned(lane)), t = fragment::quarter(unsigned(lane));
  std::uint32_t const ones = pack<T>(1, 1), below = pack<T>(2 * t < g ? 1.f : 0.f, 2 * t + 1 < g ? 1.f : 0.f);
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
    std::uint32_t const a[4] = {v[0], v[1], 0, v[2]};
    mma<T>(r[0], a, below, 0);
    mma<T>(r[1], a, ones, below);
  }
  bool const first = 2 * t <= g, second = 2 * t + 1 <= g;
  return {(first ? r[0][0] : 0.f) + r[0][2], (second ? r[0][1] : 0.f) + r[0][3], first ? r[1][2] : 0.f,
          second ? r[1][3] : 0.f};
}

/// The tile of the warp on the diagonal: as tile_below, but every decay by itself, and the decayed scores are times dt
/// and have D on their diagonal: dx whole, but for the other tiles. To shared memory the tile's sums of Gamma over
/// rectangles and x . U. Returns this lane's part of the sum of dy . x.
template <class Block>
__device__ inline float tile_on_diagonal(Block const& k, int unit, float (&gradient)[2][4]) {
  using Tr = typename Block::traits;
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), t0 = k.warp * 16;
  auto const v = k.vectors(unit);
  tile_rows<Tr> rows;
  rows.load(k, unit, k.warp);
  float w[2][4] = {};
  multiply_rows<T>(w, rows.dy, shared_address(k.x(unit) + t0 * Tr::pitch) + k.column_operand(Tr::pitch));
  std::uint32_t s[4];
  load_matrix(s, shared_address(k.tile(0, k.warp, k.warp)) + k.lane * 16);
  unsigned char* const decayed = k.tile(k.at.decayed, k.warp, k.warp) + k.lane * 4;
  float const direct = k.p.d[k.parameter(unit)];
  float2 gamma[3], output[3];
  float skip = 0;
#pragma unroll
  for (int q = 0; q < 3; ++q) {  // quadrants
    int const n = q >> 1, half = (q + 1) >> 1;
    float2 const from = *reinterpret_cast<float2 const*>(v.c + t0 + 8 * n + 2 * t);
    float2 const step = *reinterpret_cast<float2 const*>(v.dt + t0 + 8 * n + 2 * t);
    float2 const score = unpack<T>(s[2 * n + half]);
    float2 decay{exp2_fast(rows.c[half] - from.x), exp2_fast(rows.c[half] - from.y)};
    float2 add{0, 0};
    if (n == half) {  // a choice, not a factor: above the diagonal the exponential may be infinite
      decay = {2 * t <= g ? decay.x : 0.f, 2 * t + 1 <= g ? decay.y : 0.f};
      add = {2 * t == g ? direct : 0.f, 2 * t + 1 == g ? direct : 0.f};
      skip += 2 * t == g ? w[n][2 * half] : 2 * t + 1 == g ? w[n][2 * half + 1] : 0.f;
    }
    float const x = decay.x * w[n][2 * half], y = decay.y * w[n][2 * half + 1];
    gradient[n][2 * half] = fmaf(step.x, x, gradient[n][2 * half]);
    gradient[n][2 * half + 1] = fmaf(step.y, y, gradient[n][2 * half + 1]);
    output[q] = {score.x * x, score.y * y};
    gamma[q] = {output[q].x * step.x, output[q].y * step.y};
    *reinterpret_cast<std::uint32_t*>(decayed + (2 * n + half) * 128) =
        pack<T>(fmaf(score.x * decay.x, step.x, add.x), fmaf(score.y * decay.y, step.y, add.y));
  }
  *reinterpret_cast<std::uint32_t*>(decayed + 2 * 128) = 0;
  float4 const sums = rectangle_parts(gamma, k.lane);
  float const parts[8] = {
      sums.x, output[0].x + output[1].x, sums.y, output[0].y + output[1].y, sums.z, output[2].x, sums.w, output[2].y};
  float const sum = fold<8, 16>(parts, k.lane);
  int const column = (k.lane >> 4) * 8 + 2 * t + (k.lane >> 3 & 1);
  reinterpret_cast<float*>(k.shared + k.at.own_sums)[(g & 1) * k.at.rows() + t0 + column] = sum;
  return skip;
}

/// Every tile of the warp for one unit. Returns this lane's part of the sum of dy . x.
template <class Tr>
__device__ inline float unit_tiles(backward_quadratic_block<Tr> const& k, warp_tiles<Tr> const& tiles, int unit,
                                   tile_sums<Tr>& gradient) {
  tile_rows<Tr> rows;
  float2 before{0, 0};  // of a first of two tiles
  tiles.each([&](int s, tile_place const& at, bool another) {
    if (another) rows.load(k, unit, at.row);
    float2 const sums = tile_below(k, unit, at, rows, gradient.below[s]);
    if (s % 2 == 1)
      store_row_sums<2>(k, at.index - 1, before, sums);
    else if (s + 1 == tiles.count)
      store_row_sums<1>(k, at.index, sums, sums);
    else
      before = sums;
  });
  return k.has_tile() ? tile_on_diagonal(k, unit, gradient.diagonal) : 0.f;
}

/// 16 rows of `Width` columns from shared to global memory, where they are inside the sequence.
template <int Width, class T>
__device__ inline void write_rows(unsigned char const* from, T* to, int stride, int inside, int lane) {
  constexpr int pieces = Width / 8, pitch = 2 * Width + 16;
  __syncwarp();
#pragma unroll
  for (int i = lane; i < 16 * pieces; i += 32) {
    int const row = i / pieces, piece = i % pieces;
    if (row < inside)
      *reinterpret_cast<uint4*>(to + std::size_t(row) * stride + piece * 8) =
          *reinterpret_cast<uint4 const*>(from + row * pitch + piece * 16);
  }
}

/// The transpose of a tile, as an A fragment.
__device__ inline void load_transposed(std::uint32_t (&a)[4], unsigned char const* tile, int lane) {
  std::uint32_t v[4];
  load_matrix_transposed(v, shared_address(tile) + lane * 16);
  a[0] = v[0], a[1] = v[2], a[2] = v[1], a[3] = v[3];
}

/// dx of the warp's 16 tokens, over x in shared memory and from there to global memory. Returns, of lane's token,
/// 16 warp + lane % 16, x . U over the tiles after its own, without the decay up to the end of its own.
template <class Tr>
__device__ inline float finish_dx(backward_quadratic_block<Tr> const& k, int unit) {
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), t0 = k.warp * 16;
  decay_vectors<Tr> const v{k.shared, k.at, unit};
  std::uint32_t const dy = shared_address(k.dy(unit)) + k.row_operand(Tr::pitch);
  float u[1][Tr::slice / 8][4] = {};
  auto const multiply = [&](int i) {
    std::uint32_t a[1][4];
    load_transposed(a[0], k.tile(k.at.decayed, i, k.warp), k.lane);
    multiply_x<T, 0, 1, Tr::slice>(u, a, dy + i * 16 * Tr::pitch);
  };
#pragma unroll 1
  for (int i = k.at.tiles - 1; i > k.warp; --i) multiply(i);
  unsigned char* const x = k.x(unit) + t0 * Tr::pitch;
  float later[2] = {};
#pragma unroll
  for (int s = 0; s < Tr::steps; ++s) {
    std::uint32_t r[4];
    load_matrix(r, shared_address(x) + k.row_operand(Tr::pitch) + s * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const value = unpack<T>(r[i]);
      float const* const p = u[0][2 * s + (i >> 1)] + 2 * (i & 1);
      later[i & 1] = fmaf(value.x, p[0], fmaf(value.y, p[1], later[i & 1]));
    }
  }
  __syncwarp();  // else the next product's operands come before these are done with, in more registers than there are
  scale_rows(u[0], v.rest_step[t0 + g], v.rest_step[t0 + g + 8]);
  multiply(k.warp);
  __syncwarp();
#pragma unroll
  for (int n = 0; n < Tr::slice / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(x + (g + half * 8) * Tr::pitch + n * 16 + t * 4) =
          pack<T>(u[0][n][2 * half], u[0][n][2 * half + 1]);
  write_rows<Tr::slice>(x, k.p.dx + k.row(t0) * std::size_t(k.p.dx_stride) + k.column(unit), k.p.dx_stride,
                        k.p.length - t0, k.lane);
  float sum = fold<2, 1>(later, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 2);
  return __shfl_sync(~0u, sum, 4 * (k.lane & 7) + (k.lane >> 3 & 1));
}

/// The sum of Gamma_ij over all tiles i after and j before the warp's.
template <class Tr>
__device__ inline float add_tiles_around(backward_quadratic_block<Tr> const& k) {
  auto const* const sums = reinterpret_cast<float4 const*>(k.shared + k.at.row_sums);
  float sum = 0;
  for (int i = k.warp + 1; i < k.at.tiles; ++i)
    for (int j = k.lane; j < k.warp * 4; j += 32) {
      float4 const v = sums[tiles_below(i) * 4 + j];
      sum += (v.x + v.y) + (v.z + v.w);
    }
#pragma unroll
  for (int o = 1; o < 32; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
  return sum;
}

/// da_t = sum of Gamma_ij over i >= t > j of lane's token t; `later` is the sum over the tiles i after its own with j
/// the token. Sums of sums, no differences of them.
template <class Tr>
__device__ inline float finish_da(backward_quadratic_block<Tr> const& k, float later) {
  auto const* const rows = reinterpret_cast<float const*>(k.shared + k.at.row_sums) + tiles_below(k.warp) * 16;
  int const place = k.lane & 15;
  float sum = 0;  // over the tiles j before with i a token, the last one first
  for (int i = k.lane >> 4; i < k.warp; i += 2) sum += rows[i * 16 + 15 - place];
  sum += __shfl_xor_sync(~0u, sum, 16);
  if (k.lane >= 16) sum = later;
#pragma unroll
  for (int o = 1; o < 16; o *= 2) {
    float const before = __shfl_up_sync(~0u, sum, o);
    if (place >= o) sum += before;
  }
  float const from = __shfl_sync(~0u, sum, 15 - place);  // of tokens i >= t
  float before = __shfl_sync(~0u, sum, 15 + place);      // of tokens j < t
  if (place == 0) before = 0;
  return reinterpret_cast<float const*>(k.shared + k.at.own_sums)[k.warp * 16 + place] + from + before +
         add_tiles_around(k);
}

/// All of a unit for the warp's 16 tokens. `skip` is the lane's part of the sum of dy . x, `carried` the head's d dt of
/// its slices so far.
template <class Tr>
__device__ inline void finish_rows(backward_quadratic_block<Tr> const& k, int unit, float skip, float& carried) {
  int const token = k.warp * 16 + (k.lane & 15), slice = unit % Tr::slices;
  decay_vectors<Tr> const v{k.shared, k.at, unit};
  float const later = finish_dx(k, unit), da = finish_da(k, later * v.rest_step[token]);
  float const output =
      fmaf(later, v.rest[token], reinterpret_cast<float const*>(k.shared + k.at.own_sums)[k.at.rows() + token]);
  carried = (slice == 0 ? 0.f : carried) + fmaf(k.p.a[k.parameter(unit)], da, output);
  if (slice == Tr::slices - 1 && k.lane < 16 && token < k.p.length)
    k.p.ddt[k.row(token) * Tr::sizes::heads + k.head(unit)] = carried;
  float const parts[2] = {k.lane < 16 ? da * v.dt[token] : 0.f, skip};
  float sum = fold<2, 16>(parts, k.lane);  // of A in the lower half, of D in the upper
#pragma unroll
  for (int o = 1; o < 16; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
  if ((k.lane & 15) != 0) return;
  float& total = k.lane == 0 ? k.totals(unit).x : k.totals(unit).y;
  total = slice == 0 ? sum : total + sum;
}

}  // namespace dm2::cuda::detail::ssd
