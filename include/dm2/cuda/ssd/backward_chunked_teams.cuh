/// @file
/// The two teams of a block in the scan's backward in chunks.
///
/// What each computes for a unit of a chunk. See backward_chunked.cuh.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_chunked_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

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

/// This lane's part of a unit's <h, dh>, for the first team: the diagonal of products of tiles with those of the
/// gradient transposed. Four instructions a tile, where sums of 16-bit numbers as float took 31.
template <class Tr>
__device__ inline float through_state(backward_chunk_block<Tr> const& k) {
  using T = typename Tr::element;
  unsigned char const* const states = k.shared + k.at.states;
  std::uint32_t const h = shared_address(states) + k.lane * 16, dh = tile_columns(states + Tr::state_bytes, k.lane);
  float v[2][4] = {};
  constexpr int tiles = Tr::depth * Tr::steps;
#pragma unroll 2
  for (int first = 0; first < tiles; first += 4) {
    int const i = first + k.warp;
    if (tiles % 4 != 0 && i >= tiles) break;
    std::uint32_t a[4], b[4];
    load_matrix(a, h + i * fragment_bytes);
    load_matrix(b, dh + i * fragment_bytes);
    mma<T>(v[0], a, b[0], b[1]);
    mma<T>(v[1], a, b[2], b[3]);
  }
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane));
  return g == 2 * t ? v[0][0] + v[1][2] : g == 2 * t + 1 ? v[0][1] + v[1][3] : 0.f;
}

/// f(sums at 0), then the sums to a tile's of the gradient of the scores; a lane has always the same ones.
template <class Tr, class F>
__device__ inline void add_gradient(backward_chunk_block<Tr> const& k, int row, int column, F const& f) {
  float v[2][4] = {};
  f(v);
  auto* const at = reinterpret_cast<float4*>(k.shared + k.at.gradient) + (tiles_below(row + 1) + column) * 64 + k.lane;
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
      add_gradient(k, k.warp, column, [&](float(&v)[2][4]) { sums = tile_below(k, unit, place, rows, v); });
      store_row_sums(k.row_sums(unit) + place.index * 16, sums, k.lane);
    }
  }
  float skip;
  add_gradient(k, k.warp, k.warp, [&](float(&v)[2][4]) { skip = tile_on_diagonal(k, unit, v); });
  return skip;
}

/// First team: dC += exp(c_i) h dy_i for the warp's tokens, and what h gives to da.
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
  if (k.lane < 16) k.later(unit)[k.warp * 16 + k.lane] = of_token;
  float const of_tile = sum_over_half_warp(of_token);
  if (k.lane == 0) k.tile_sums(unit).later[k.warp] = of_tile;
}

/// First team: <h, dh>, which goes into da.
template <class Tr>
__device__ inline void unit_through(backward_chunk_block<Tr> const& k, int unit) {
  float const through = sum_over_warp(k.enters() && k.leaves() ? through_state(k) : 0.f);
  if (k.lane == 0) k.tile_sums(unit).through[k.warp] = through;
}

/// Of lane's token, x . u for the warp's tokens.
template <class Tr>
__device__ inline float dot_rows(backward_chunk_block<Tr> const& k, int unit, float const (&u)[1][Tr::slice / 8][4]) {
  using T = typename Tr::element;
  std::uint32_t const x = shared_address(k.x(unit) + k.warp * 16 * Tr::pitch) + k.row_operand(Tr::pitch);
  float dot[2] = {};
#pragma unroll
  for (int s = 0; s < Tr::steps; ++s) {
    std::uint32_t r[4];
    load_matrix(r, x + s * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const value = unpack<T>(r[i]);
      float const* const q = u[0][2 * s + (i >> 1)] + 2 * (i & 1);
      dot[i & 1] = fmaf(value.x, q[0], fmaf(value.y, q[1], dot[i & 1]));
    }
  }
  return sum_of_token(dot, k.lane);
}

/// dB += dt_j exp(end - c_j) dh x_j for the warp's tokens, the factor in x's rounding; `left` is exp of the sum from
/// the end of the 16 to the chunk's.
template <class Tr>
__device__ inline void add_state_columns(backward_chunk_block<Tr> const& k, int unit, float left, std::uint32_t state,
                                         chunk_sums_of_states<Tr>& db) {
  using T = typename Tr::element;
  int const t0 = k.warp * 16, g = fragment::row(unsigned(k.lane));
  float const* const rest = k.vectors(unit).rest_step + t0 + g;
  float const factor[2] = {left * rest[0], left * rest[8]};
  std::uint32_t x[Tr::steps][4];
  load_rows(x, shared_address(k.x(unit) + t0 * Tr::pitch) + k.row_operand(Tr::pitch));
#pragma unroll
  for (int s = 0; s < Tr::steps; ++s)
#pragma unroll
    for (int i = 0; i < 4; ++i) x[s][i] = scale_pair<T>(x[s][i], factor[i & 1]);
#pragma unroll
  for (int d = 0; d < Tr::depth; ++d) {
#pragma unroll
    for (int s = 0; s < Tr::steps; ++s) {
      std::uint32_t h[4];
      load_matrix_transposed(h, state + (d * Tr::steps + s) * fragment_bytes);
      mma<T>(db[0][2 * d], x[s], h[0], h[1]);
      mma<T>(db[0][2 * d + 1], x[s], h[2], h[3]);
    }
    __syncwarp();
  }
}

/// Second team: dB += dt_j exp(end - c_j) dh x_j for the warp's tokens; to u, at 0, what dh gives to U, without the
/// decay of each token up to the end of its 16.
template <class Tr>
__device__ inline void unit_columns(backward_chunk_block<Tr> const& k, int unit, chunk_sums_of_states<Tr>& db,
                                    float (&u)[1][Tr::slice / 8][4]) {
  using T = typename Tr::element;
  float earlier = 0;
  if (k.leaves()) {
    int const t0 = k.warp * 16;
    auto const v = k.vectors(unit);
    float const left = exp2_fast(v.c[ssd_tile - 1] - v.c[t0 + 15]);
    unsigned char const* const state = k.shared + k.at.states + Tr::state_bytes;
    add_state_columns(k, unit, left, shared_address(state) + k.lane * 16, db);
    std::uint32_t const columns = tile_columns(state, k.lane);
    std::uint32_t const b = shared_address(k.shared + k.at.b + t0 * Tr::row_pitch) + k.row_operand(Tr::row_pitch);
#pragma unroll 1
    for (int d = 0; d < Tr::depth; ++d) {
      std::uint32_t a[4];
      load_matrix(a, b + d * 32);
#pragma unroll
      for (int m = 0; m < Tr::steps; ++m) {
        std::uint32_t h[4];
        load_matrix(h, columns + (d * Tr::steps + m) * fragment_bytes);
        mma<T>(u[0][2 * m], a, h[0], h[1]);
        mma<T>(u[0][2 * m + 1], a, h[2], h[3]);
      }
    }
    scale_rows(u[0], left, left);
    earlier = dot_rows(k, unit, u) * v.rest_step[t0 + (k.lane & 15)];
  }
  earlier = sum_over_half_warp(earlier);
  if (k.lane == 0) k.tile_sums(unit).earlier[k.warp] = earlier;
}

/// Second team: dx of the warp's tokens from u, over x in shared memory and from there to global memory. Returns, of
/// lane's token, x . U over everything after its 16 tokens, without the decay up to their end.
template <class Tr>
__device__ inline float finish_dx(backward_chunk_block<Tr> const& k, int unit, float (&u)[1][Tr::slice / 8][4]) {
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), t0 = k.warp * 16;
  auto const v = k.vectors(unit);
  std::uint32_t const dy = shared_address(k.dy(unit)) + k.row_operand(Tr::pitch);
  auto const multiply = [&](int i) {
    std::uint32_t a[1][4];
    load_transposed(a[0], k.tile(k.at.decayed, i, k.warp), k.lane);
    multiply_x<T, 0, 1, Tr::slice>(u, a, dy + i * 16 * Tr::pitch);
  };
#pragma unroll 1
  for (int i = Tr::tiles - 1; i > k.warp; --i) multiply(i);
  unsigned char* const x = k.x(unit) + t0 * Tr::pitch;
  float const after = dot_rows(k, unit, u);
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
  write_rows<Tr::width, Tr::slice>(x, k.p.dx + k.row(t0) * std::size_t(k.p.dx_stride) + k.column(unit), k.p.dx_stride,
                                   k.tokens() - t0, k.lane);
  return after;
}

/// What every token of the warp's 16 has in da: whole 16s before with whole 16s after, and what passes the chunk or one
/// end of it.
template <class Tr>
__device__ inline float add_tiles_around(backward_chunk_block<Tr> const& k, int unit, float whole) {
  auto const* const sums = reinterpret_cast<float4 const*>(k.row_sums(unit));
  float sum = 0;
#pragma unroll
  for (int i = 1; i < Tr::tiles; ++i)
    if (i > k.warp && k.lane < k.warp * 4) {
      float4 const v = sums[tiles_below(i) * 4 + k.lane];
      sum += (v.x + v.y) + (v.z + v.w);
    }
  sum = sum_over_warp(sum);
  auto const& tiles = k.tile_sums(unit);
#pragma unroll
  for (int i = 0; i < Tr::tiles; ++i) sum += i > k.warp ? tiles.later[i] : i < k.warp ? tiles.earlier[i] : 0.f;
  return fmaf(whole, (tiles.through[0] + tiles.through[1]) + (tiles.through[2] + tiles.through[3]), sum);
}

/// da of lane's token; `after` is the sum over everything after its 16 tokens with j the token. Sums of sums, no
/// differences of them.
template <class Tr>
__device__ inline float finish_da(backward_chunk_block<Tr> const& k, int unit, float after, float whole) {
  float const* const rows = k.row_sums(unit) + tiles_below(k.warp) * 16;
  int const place = k.lane & 15;
  float sum = after;
  if (k.lane < 16) {  // over everything before the 16 with i a token, the last one first
    sum = k.later(unit)[k.warp * 16 + 15 - place];
#pragma unroll
    for (int j = 0; j + 1 < Tr::tiles; ++j) sum += j < k.warp ? rows[j * 16 + 15 - place] : 0.f;
  }
  sum = sum_up_to_lane<16>(sum, place);
  float const from = __shfl_sync(~0u, sum, 15 - place);  // of tokens i >= t
  float before = __shfl_sync(~0u, sum, 15 + place);      // of tokens j < t
  if (place == 0) before = 0;
  return k.own_sums(unit)[k.warp * 16 + place] + from + before + add_tiles_around(k, unit, whole);
}

/// Second team: the steps' gradient of the warp's 16 tokens, and the sum for A. `after` is finish_dx's; `carried` is
/// the head's d dt of its slices so far.
template <class Tr>
__device__ inline void finish_steps(backward_chunk_block<Tr> const& k, int unit, float after, float& carried) {
  int const token = k.warp * 16 + (k.lane & 15), slice = unit % Tr::slices;
  auto const v = k.vectors(unit);
  float const da = finish_da(k, unit, after * v.rest_step[token], exp2_fast(v.c[ssd_tile - 1]));
  float const output = fmaf(after, v.rest[token], k.own_sums(unit)[ssd_tile + token]);
  carried = (slice == 0 ? 0.f : carried) + fmaf(k.p.a[k.parameter(unit)], da, output);
  if (slice == Tr::slices - 1 && k.lane < 16 && token < k.tokens())
    k.p.ddt[k.row(token) * Tr::sizes::heads + k.head(unit)] = carried;
  float const sum = sum_over_half_warp(da * v.dt[token]);
  float& total = k.totals(unit).x;
  if (k.lane == 0) total = slice == 0 ? sum : total + sum;
}

}  // namespace dm2::cuda::detail::ssd
