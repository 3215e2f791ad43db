/// @file
/// Tokens in the scan's backward in the quadratic form: what the free warps finish.
///
/// The gradient of a decay is a sum over rectangles of Gamma. See backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// For lane's token, 16 tile + lane % 16: the sum of Gamma_ij over the tiles before its own, with i the token. Adds
/// this lane's part of the same over the tiles before t to around[t], for every t before the tile.
template <class Tr>
__device__ inline float sum_of_row(backward_quadratic_block<Tr> const& k, int unit, int tile, float (&around)[16]) {
  float2 const* const parts = k.row_parts(unit, tile, 0) + k.lane;
  float v[2] = {};
#pragma unroll
  for (int j = 0; j + 1 < Tr::most_tiles; ++j) {
    if (j >= tile) break;
    float2 const part = parts[j * 32];
    v[0] += part.x, v[1] += part.y;
    if (j + 1 < tile) around[j + 1] += v[0] + v[1];
  }
  float sum = fold<2, 8>(v, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 4);
  return __shfl_sync(~0u, sum, (k.lane & 8) * 2 + (k.lane & 1) * 8 + (k.lane >> 1 & 3));
}

/// Adds to token_sums::inside of a tile's tokens t what `row` (sum_of_row) and the tiles after have: Gamma_ij with
/// i >= t in the tile and j before it, with j < t in it and i after.
template <class Tr>
__device__ inline void add_rows_and_columns(backward_quadratic_block<Tr> const& k, int unit, int tile, float row) {
  auto const to = k.sums(unit);
  int const place = k.lane & 15, token = tile * 16 + place;
  float const reversed = __shfl_sync(~0u, row, 15 - place);
  float sum = k.lane < 16 ? reversed : to.after[token];
#pragma unroll
  for (int o = 1; o < 16; o *= 2) {
    float const before = __shfl_up_sync(~0u, sum, o);
    if (place >= o) sum += before;
  }
  float const from = __shfl_sync(~0u, sum, 15 - place);  // of tokens i >= t
  float before = __shfl_sync(~0u, sum, 15 + place);      // of tokens j < t
  if (place == 0) before = 0;
  if (k.lane < 16) to.inside[token] += from + before;
}

/// Warps that finish a unit's tokens: `count` of them, this one is `own`.
struct token_team {
  int own, count;
};

/// What the warp's tiles give: the first pass of finish_tokens.
template <class Tr>
__device__ inline void add_tiles(backward_quadratic_block<Tr> const& k, int unit, token_team team) {
  float around[16] = {};
  for (int tile = team.own; tile < k.at.tiles; tile += team.count)
    add_rows_and_columns(k, unit, tile, sum_of_row(k, unit, tile, around));
  float sum = fold<16, 16>(around, k.lane);
  sum += __shfl_xor_sync(~0u, sum, 1);
  if ((k.lane & 1) == 0) reinterpret_cast<float*>(k.shared + k.at.around)[team.own * 16 + k.lane / 2] = sum;
}

/// The sum of Gamma_ij over all tiles i after and j before tile lane % 16.
template <class Tr>
__device__ inline float sum_around(backward_quadratic_block<Tr> const& k, int warps) {
  float sum = 0;
  for (int w = 0; w < warps; ++w) sum += reinterpret_cast<float const*>(k.shared + k.at.around)[w * 16 + (k.lane & 15)];
  return sum;
}

/// d dt of a unit's tokens, and its sums for A and D, from what the unit's tiles left in shared memory. Between the two
/// passes the team's warps wait for each other.
template <class Tr, class Wait>
__device__ inline void finish_tokens(backward_quadratic_block<Tr> const& k, int unit, token_team team,
                                     Wait const& wait) {
  add_tiles(k, unit, team);
  wait();
  int const slice = unit % Tr::slices;
  if (team.own >= k.at.free_warps()) return;
  auto const from = k.sums(unit);
  float const* const dt = k.vectors(unit).dt;
  float* const carried = reinterpret_cast<float*>(k.shared + k.at.carried);
  float const around = sum_around(k, team.count), rate = k.p.a[k.parameter(unit)];
  float sum = 0;
  for (int first = team.own * 32; first < k.at.rows(); first += k.at.free_warps() * 32) {
    int const token = first + k.lane;
    float const of_tile = __shfl_sync(~0u, around, token >> 4 & 15);
    if (token >= k.at.rows()) continue;
    float const da = from.inside[token] + of_tile;
    float const ddt = (slice == 0 ? 0.f : carried[token]) + fmaf(rate, da, from.output[token]);
    sum = fmaf(da, dt[token], sum);
    if (slice < Tr::slices - 1)
      carried[token] = ddt;
    else if (token < k.p.length)
      k.p.ddt[k.row(token) * Tr::sizes::heads + k.head(unit)] = ddt;
  }
  float const skip = sum_over_warp(team.own == 0 && k.lane < k.at.tiles ? from.skip[k.lane] : 0.f);
  sum = sum_over_warp(sum);
  float2& total =
      reinterpret_cast<float2*>(k.shared + k.at.totals)[team.own * Tr::sizes::per_group + unit / Tr::slices];
  if (k.lane == 0) total = slice == 0 ? float2{sum, skip} : float2{total.x + sum, total.y + skip};
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
