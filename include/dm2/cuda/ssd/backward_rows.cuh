/// @file
/// The scan's backward in the quadratic form, what is finished for 16 tokens of a unit: dx, d dt and the sums for A and
/// D. See backward_quadratic_launch.cuh.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_diagonal.cuh>

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
  int const g = k.lane >> 2, t = k.lane & 3, t0 = k.warp * 16;
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

}  // namespace dm2::cuda::detail::scan
