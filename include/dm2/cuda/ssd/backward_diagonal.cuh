/// @file
/// The scan's backward in the quadratic form, the tiles on the diagonal, and all tiles of a unit. See
/// backward_quadratic_launch.cuh.
#pragma once

#include <dm2/cuda/ssd/backward_tiles.cuh>

namespace dm2::cuda::detail::scan {

/// For a tile on the diagonal, Gamma_ij of which comes as quadrants of accumulators: rows 0 to 7 of columns 0 to 7, rows
/// 8 to 15 of columns 0 to 7 and of columns 8 to 15. This lane's part, over its rows, of the sums over i >= t > j for
/// the t of its four columns. The sums over j are a product with a triangle of ones, Gamma in two parts of 8 bits.
__device__ inline float4 rectangle_parts(float2 const (&gamma)[3], int lane) {
  using T = __nv_bfloat16;
  int const g = lane >> 2, t = lane & 3;
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
  int const g = k.lane >> 2, t = k.lane & 3, t0 = k.warp * 16;
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
  reinterpret_cast<float*>(k.shared + k.at.own_sums)[(k.lane >> 2 & 1) * k.at.rows() + t0 + column] = sum;
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

}  // namespace dm2::cuda::detail::scan
