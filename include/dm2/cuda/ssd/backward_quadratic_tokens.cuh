/// @file
/// Tokens in the scan's backward in the quadratic form: what the free warps finish.
///
/// The gradient of a decay is a sum over rectangles of Gamma. See backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// token_sums::before of a tile. Adds this lane's part of the sum of Gamma_ij over the tile's rows i and the tiles
/// before t to around[t], for every t before the tile.
template <class Tr>
__device__ inline void add_row(backward_quadratic_block<Tr> const& k, int unit, int tile, float (&around)[16]) {
  float2 const* const parts = k.row_parts(unit, tile, 0) + k.lane;
  float v[2] = {};
  constexpr int batch = 4, most = Tr::most_tiles - 1;
#pragma unroll
  for (int first = 0; first < most; first += batch) {
    if (first >= tile) break;
    float2 part[batch];  // loads first, without a branch between them
#pragma unroll
    for (int j = 0; j < batch; ++j) part[j] = first + j < tile ? parts[(first + j) * 32] : float2{0, 0};
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      v[0] += part[j].x, v[1] += part[j].y;
      if (first + j < most) around[first + j + 1] += first + j + 1 < tile ? v[0] + v[1] : 0.f;
    }
  }
  float sum = fold<2, 8>(v, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 4);
  if ((k.lane & 4) == 0)
    k.sums(unit).before[tile * 16 + (k.lane >> 4) * 8 + (k.lane & 3) * 2 + (k.lane >> 3 & 1)] = sum;
}

/// Warps that finish a unit's tokens: `count` of them, this one is `own`.
struct token_team {
  int own, count;
};

/// What the warp's tiles give: the first pass of finish_tokens.
template <class Tr>
__device__ inline void add_tiles(backward_quadratic_block<Tr> const& k, int unit, token_team team) {
  float around[16] = {};
#pragma unroll 1
  for (int tile = team.own; tile < k.at.tiles; tile += team.count) add_row(k, unit, tile, around);
  float sum = fold<16, 16>(around, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 1);
  if ((k.lane & 1) == 0) reinterpret_cast<float*>(k.shared + k.at.around)[team.own * 16 + k.lane / 2] = sum;
}

/// The sum of Gamma_ij over all tiles i after and j before tile lane % 16, of which `teams` have left a part.
template <class Tr>
__device__ inline float sum_around(backward_quadratic_block<Tr> const& k, int teams) {
  float sum = 0;
  for (int w = 0; w < teams; ++w) sum += reinterpret_cast<float const*>(k.shared + k.at.around)[w * 16 + (k.lane & 15)];
  return sum;
}

/// da of lane's token: sums over rectangles of Gamma_ij, i >= t > j, inside the token's tile, in its rows with all
/// tiles before, in its columns with all tiles after, and `around`. Half a warp has a tile.
template <class Tr>
__device__ inline float da_of_token(backward_quadratic_block<Tr> const& k, int unit, int token, float around) {
  auto const from = k.sums(unit);
  bool const there = token < k.at.rows();
  float rows = there ? from.before[token] : 0.f, columns = there ? from.after[token] : 0.f;
  int const place = k.lane & 15;
#pragma unroll
  for (int o = 1; o < 16; o *= 2) {
    float const later = __shfl_down_sync(~0u, rows, o), before = __shfl_up_sync(~0u, columns, o);
    if (place + o < 16) rows += later;
    if (place >= o) columns += before;
  }
  float const before = __shfl_up_sync(~0u, columns, 1);
  return there ? from.inside[token] + rows + (place == 0 ? 0.f : before) + around : 0.f;
}

/// The first pass of finish_tokens for one row of tiles, by a warp that has no other.
template <class Tr>
__device__ inline void add_own_row(backward_quadratic_block<Tr> const& k, int unit) {
  if (k.warp < k.at.tiles) add_tiles(k, unit, {k.warp, k.at.tiles});
}

/// d dt of a unit's tokens, and its sums for A and D, from what the unit's tiles left in shared memory. Between the two
/// passes the team's warps wait for each other; where not Rows, the first one is add_own_row of other warps, and they
/// wait for those.
template <bool Rows = true, class Tr, class Wait>
__device__ inline void finish_tokens(backward_quadratic_block<Tr> const& k, int unit, token_team team,
                                     Wait const& wait) {
  if constexpr (Rows) add_tiles(k, unit, team);
  wait();
  int const slice = unit % Tr::slices;
  if (team.own >= k.at.free_warps()) return;
  auto const from = k.sums(unit);
  float const* const dt = k.vectors(unit).dt;
  float* const carried = reinterpret_cast<float*>(k.shared + k.at.carried);
  float const around = sum_around(k, Rows ? team.count : k.at.tiles), rate = k.rate(unit);
  float sum = 0;
#pragma unroll 1
  for (int first = team.own * 32; first < k.at.rows(); first += k.at.free_warps() * 32) {
    int const token = first + k.lane;
    float const da = da_of_token(k, unit, token, __shfl_sync(~0u, around, token >> 4 & 15));
    if (token >= k.at.rows()) continue;
    float const ddt = (slice == 0 ? 0.f : carried[token]) + fmaf(rate, da, from.output[token]);
    sum = fmaf(da, dt[token], sum);
    if (slice < Tr::slices - 1)
      carried[token] = ddt;
    else if (token < k.p.length)
      k.p.ddt[k.row(token) * Tr::sizes::heads + k.head(unit)] = ddt;
  }
  float const sums[2] = {sum, team.own == 0 && k.lane < k.at.tiles ? from.skip[k.lane] : 0.f};
  sum = sum_over_half_warp(fold<2, 16>(sums, k.lane));  // of A in the lower half, of D in the upper
  if ((k.lane & 15) != 0) return;
  float2& total =
      reinterpret_cast<float2*>(k.shared + k.at.totals)[team.own * Tr::sizes::per_group + unit / Tr::slices];
  float& own = k.lane == 0 ? total.x : total.y;
  own = slice == 0 ? sum : own + sum;
}

/// Each head's sums for A and D over the free warps.
template <class Tr>
__device__ inline void write_totals(backward_quadratic_block<Tr> const& k) {
  constexpr int heads = Tr::sizes::per_group;
  auto const* const totals = reinterpret_cast<float2 const*>(k.shared + k.at.totals);
  for (int h = int(threadIdx.x); h < heads; h += Tr::threads) {
    float2 sum{0, 0};
    for (int w = 0; w < k.at.free_warps(); ++w) sum.x += totals[w * heads + h].x, sum.y += totals[w * heads + h].y;
    std::size_t const to = std::size_t(k.sequence()) * Tr::sizes::heads + k.group() * heads + h;
    k.p.da[to] = sum.x, k.p.d_skip[to] = sum.y;
  }
}

}  // namespace dm2::cuda::detail::ssd
