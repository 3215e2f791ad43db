/// @file
/// The scan's backward in the quadratic form, what is finished for 16 tokens of a unit: dx, d dt and the sums for A and
/// D. See ssd_backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/pack.cuh>
#include <dm2/cuda/ssd_backward_quadratic_tiles.cuh>

namespace dm2::cuda::detail::scan {

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

/// acc += m^T b for a tile m and 16 rows b.
template <class T, int Columns>
__device__ inline void multiply_transposed(float (&acc)[1][Columns / 8][4], std::uint32_t m, std::uint32_t b) {
  std::uint32_t v[4];
  load_matrix_transposed(v, m);
  std::uint32_t const a[1][4] = {{v[0], v[2], v[1], v[3]}};
  multiply_x<T, 0, 1, Columns>(acc, a, b);
}

/// Sums of lane's token, 16 warp + lane % 16.
struct token_sums {
  float later;   ///< of Gamma_ij over the tiles i after this one, with j the token
  float output;  ///< x . U
};

/// From accumulators' rows, alike in a row's four lanes, to a token a lane.
__device__ inline float to_token(float low, float high, int lane) {
  float const a = __shfl_sync(~0u, low, 4 * (lane & 7)), b = __shfl_sync(~0u, high, 4 * (lane & 7));
  return (lane & 8) == 0 ? a : b;
}

/// dx of the warp's 16 tokens, over x in shared memory and from there to global memory.
template <class Tr>
__device__ inline token_sums finish_dx(backward_quadratic_block<Tr> const& k, int unit) {
  using T = typename Tr::element;
  int const g = k.lane >> 2, t = k.lane & 3, t0 = k.warp * 16;
  decay_vectors<Tr> const v{k.shared, k.at, unit};
  std::uint32_t const dy = shared_address(k.dy(unit)) + k.row_operand(Tr::pitch);
  float u[1][Tr::slice / 8][4] = {};
  auto const multiply = [&](int i) {
    multiply_transposed<T, Tr::slice>(u, shared_address(k.tile(k.at.decayed, i, k.warp)) + k.lane * 16,
                                      dy + i * 16 * Tr::pitch);
  };
#pragma unroll 2
  for (int i = k.at.tiles - 1; i > k.warp; --i) multiply(i);
  unsigned char* const x = k.x(unit) + (t0 + g) * Tr::pitch + t * 4;
  unsigned char const* const direct = k.dy(unit) + (t0 + g) * Tr::pitch + t * 4;
  float later[2] = {}, output[2] = {};
#pragma unroll
  for (int n = 0; n < Tr::slice / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const value = unpack<T>(*reinterpret_cast<std::uint32_t const*>(x + half * 8 * Tr::pitch + n * 16));
      later[half] = fmaf(value.x, u[0][n][2 * half], fmaf(value.y, u[0][n][2 * half + 1], later[half]));
    }
  scale_rows(u[0], v.rest[t0 + g], v.rest[t0 + g + 8]);
  multiply(k.warp);
  float const skip = k.p.d[k.parameter(unit)], step[2] = {v.dt[t0 + g], v.dt[t0 + g + 8]};
#pragma unroll
  for (int n = 0; n < Tr::slice / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto* const place = reinterpret_cast<std::uint32_t*>(x + half * 8 * Tr::pitch + n * 16);
      float2 const value = unpack<T>(*place);
      float2 const gradient =
          unpack<T>(*reinterpret_cast<std::uint32_t const*>(direct + half * 8 * Tr::pitch + n * 16));
      float const first = u[0][n][2 * half], second = u[0][n][2 * half + 1];
      output[half] = fmaf(value.x, first, fmaf(value.y, second, output[half]));
      *place = pack<T>(fmaf(skip, gradient.x, step[half] * first), fmaf(skip, gradient.y, step[half] * second));
    }
  write_rows<Tr::slice>(k.x(unit) + t0 * Tr::pitch, k.p.dx + k.row(t0) * std::size_t(k.p.dx_stride) + k.column(unit),
                        k.p.dx_stride, k.p.length - t0, k.lane);
  return {to_token(add_quad(later[0] * v.rest_step[t0 + g]), add_quad(later[1] * v.rest_step[t0 + g + 8]), k.lane),
          to_token(add_quad(output[0]), add_quad(output[1]), k.lane)};
}

/// The sum of Gamma_ij over the tiles j before the warp's, with i lane's token.
template <class Tr>
__device__ inline float add_tiles_before(backward_quadratic_block<Tr> const& k) {
  auto const* const sums = reinterpret_cast<float const*>(k.shared + k.at.row_sums) + tiles_below(k.warp) * 16;
  float sum = 0;
  for (int i = k.lane; i < k.warp * 16; i += 32) sum += sums[i];
  return sum + __shfl_xor_sync(~0u, sum, 16);
}

/// The sum of Gamma_ij over all tiles i after and j before the warp's.
template <class Tr>
__device__ inline float add_tiles_around(backward_quadratic_block<Tr> const& k) {
  auto const* const sums = reinterpret_cast<float const*>(k.shared + k.at.tile_sums);
  float sum = 0;
  if ((k.lane & 15) < k.warp)
    for (int i = k.warp + 1 + (k.lane >> 4); i < k.at.tiles; i += 2) sum += sums[tiles_below(i) + (k.lane & 15)];
#pragma unroll
  for (int o = 1; o < 32; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
  return sum;
}

/// da_t = sum of Gamma_ij over i >= t > j of lane's token t. Sums of sums, no differences of them.
template <class Tr>
__device__ inline float finish_da(backward_quadratic_block<Tr> const& k, token_sums const& token) {
  float from = add_tiles_before(k), until = token.later;  // of tokens i >= t, of tokens j <= t
  int const place = k.lane & 15;
#pragma unroll
  for (int o = 1; o < 16; o *= 2) {
    float const behind = __shfl_down_sync(~0u, from, o), ahead = __shfl_up_sync(~0u, until, o);
    if (place + o < 16) from += behind;
    if (place >= o) until += ahead;
  }
  float before = __shfl_up_sync(~0u, until, 1);  // of tokens j < t
  if (place == 0) before = 0;
  return reinterpret_cast<float const*>(k.shared + k.at.rectangles)[k.warp * 16 + place] + from + before +
         add_tiles_around(k);
}

/// All of a unit for the warp's 16 tokens. `carried` is the head's d dt of its slices so far.
template <class Tr>
__device__ inline void finish_rows(backward_quadratic_block<Tr> const& k, int unit, float& carried) {
  token_sums const sums = finish_dx(k, unit);
  float const da = finish_da(k, sums), a = k.p.a[k.parameter(unit)];
  int const token = k.warp * 16 + (k.lane & 15), slice = unit % Tr::slices;
  carried = (slice == 0 ? 0.f : carried) + fmaf(a, da, sums.output);
  if (slice == Tr::slices - 1 && k.lane < 16 && token < k.p.length)
    k.p.ddt[k.row(token) * Tr::sizes::heads + k.head(unit)] = carried;
  float for_a = k.lane < 16 ? da * decay_vectors<Tr>{k.shared, k.at, unit}.dt[token] : 0.f;
  for_a = add_rows(add_quad(for_a));
  if (k.lane != 0) return;
  float& total = k.totals(unit).x;
  total = slice == 0 ? for_a : total + for_a;
}

}  // namespace dm2::cuda::detail::scan
