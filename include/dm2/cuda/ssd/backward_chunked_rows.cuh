/// @file
/// What the first team of a block computes for a unit of a chunk: the tiles of scores, and what the state that enters
/// gives. See backward_chunked_launch.cuh.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_chunked_block.cuh>
#include <dm2/cuda/ssd/backward_diagonal.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::scan {

/// A warp's sums over units: dC of its tokens in the first team, dB in the second.
template <class Tr>
using chunk_sums_of_states = float[1][Tr::state / 8][4];

/// The token of a row sum: from each lane's part of the sums of rows g and g + 8, every lane's token lane % 16.
__device__ inline float sum_of_token(float const (&parts)[2], int lane) {
  float sum = fold<2, 1>(parts, lane);
  sum += __shfl_xor_sync(~0u, sum, 2);
  return __shfl_sync(~0u, sum, 4 * (lane & 7) + (lane >> 3 & 1));
}

/// dC += exp(c_i) h dy_i for rows a of dy, each by its factor; dot gets this lane's part of C_i . (h dy_i) for the rows
/// C at `with`.
template <class Tr>
__device__ inline void add_state_rows(std::uint32_t const (&a)[Tr::steps][4], std::uint32_t state, float2 factor,
                                      std::uint32_t with, chunk_sums_of_states<Tr>& dc, float (&dot)[2]) {
  using T = typename Tr::element;
#pragma unroll
  for (int d = 0; d < Tr::depth; ++d) {
    float v[2][4] = {};
#pragma unroll
    for (int s = 0; s < Tr::steps; ++s) {
      std::uint32_t b[4];
      load_matrix_transposed(b, state + (d * Tr::steps + s) * fragment_bytes);
      mma<T>(v[0], a[s], b[0], b[1]);
      mma<T>(v[1], a[s], b[2], b[3]);
    }
    std::uint32_t r[4];
    load_matrix(r, with + d * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const value = unpack<T>(r[i]);
      float const* const q = v[i >> 1] + 2 * (i & 1);
      dot[i & 1] = fmaf(value.x, q[0], fmaf(value.y, q[1], dot[i & 1]));
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) dc[0][2 * d + n][i] = fmaf(i < 2 ? factor.x : factor.y, v[n][i], dc[0][2 * d + n][i]);
    __syncwarp();  // else later products' operands come too early, in more registers than there are
  }
}

/// This lane's part of a unit's <h, dh>, for the first team.
template <class Tr>
__device__ inline float through_state(backward_chunk_block<Tr> const& k) {
  using T = typename Tr::element;
  auto const* const h = reinterpret_cast<uint4 const*>(k.shared + k.at.states);
  float sum = 0;
#pragma unroll 2
  for (int i = int(threadIdx.x); i < Tr::state_bytes / 16; i += 128) {
    uint4 const v = h[i], w = h[Tr::state_bytes / 16 + i];
    std::uint32_t const left[4] = {v.x, v.y, v.z, v.w}, right[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2 const a = unpack<T>(left[j]), b = unpack<T>(right[j]);
      sum = fmaf(a.x, b.x, fmaf(a.y, b.y, sum));
    }
  }
  return sum;
}

/// f(sums at 0), then the sums to a tile's of the gradient of the scores; a lane has always the same ones.
template <class Tr, class F>
__device__ inline void add_gradient(backward_chunk_block<Tr> const& k, int column, F const& f) {
  float v[2][4] = {};
  f(v);
  auto* const at =
      reinterpret_cast<float4*>(k.shared + k.at.gradient) + (tiles_below(k.warp + 1) + column) * 64 + k.lane;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float4 const sum = at[32 * n];
    at[32 * n] = {sum.x + v[n][0], sum.y + v[n][1], sum.z + v[n][2], sum.w + v[n][3]};
  }
}

/// First team: the tiles of the warp's rows. Returns this lane's part of the sum of dy . x.
template <class Tr>
__device__ inline float unit_tiles(backward_chunk_block<Tr> const& k, int unit) {
  if (k.warp > 0) {
    tile_rows<Tr> rows;
    rows.load(k, unit, k.warp);
#pragma unroll 1
    for (int column = 0; column < k.warp; ++column) {
      tile_place const place{k.warp, column, tiles_below(k.warp) + column};
      float2 sums;
      add_gradient(k, column, [&](float(&v)[2][4]) { sums = tile_below(k, unit, place, rows, v); });
      store_row_sums<1>(k, place.index, sums, sums);
    }
  }
  float skip;
  add_gradient(k, k.warp, [&](float(&v)[2][4]) { skip = tile_on_diagonal(k, unit, v); });
  return skip;
}

/// First team: dC += exp(c_i) h dy_i for the warp's tokens, and what the states give to da.
template <class Tr>
__device__ inline void unit_rows(backward_chunk_block<Tr> const& k, int unit, chunk_sums_of_states<Tr>& dc) {
  float later[2] = {};
  if (k.enters()) {
    tile_rows<Tr> rows;
    rows.load(k, unit, k.warp);
    float2 const decay{exp2_fast(rows.c[0]), exp2_fast(rows.c[1])};
    std::uint32_t const c = shared_address(k.shared + k.at.c + k.warp * 16 * Tr::row_pitch);
    add_state_rows<Tr>(rows.dy, shared_address(k.shared + k.at.states) + k.lane * 16, decay,
                       c + k.row_operand(Tr::row_pitch), dc, later);
    later[0] *= decay.x, later[1] *= decay.y;
  }
  float const of_token = sum_of_token(later, k.lane);
  if (k.lane < 16) k.floats(k.at.later)[k.warp * 16 + k.lane] = of_token;
  float const of_tile = sum_over_half_warp(of_token);
  float const through = sum_over_warp(k.enters() && k.leaves() ? through_state(k) : 0.f);
  if (k.lane == 0) k.tile_sums().later[k.warp] = of_tile, k.tile_sums().through[k.warp] = through;
}

}  // namespace dm2::cuda::detail::scan
