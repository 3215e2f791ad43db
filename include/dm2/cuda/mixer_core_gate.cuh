/// @file
/// The fused mixer core's results: gate, squares, and the norm where a block has made whole rows.
#pragma once

#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/pack.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// One unit's gate and result for the 16 tokens of the sequence's tile r. Word n of a row belongs to the n-th eight columns of the
/// accumulators.
template <class Tr>
struct gate_rows {
  using T = typename Tr::element;
  static constexpr int words = 2 * Tr::column_groups, wide = 4 * Tr::wide_groups;
  std::uint32_t z[2][words];

  [[nodiscard]] __device__ static int token(int r, int half, int lane) { return r * 16 + half * 8 + lane / 4; }
  /// The unit's column at which this lane's words from n on begin.
  [[nodiscard]] __device__ static int column(int n, int lane) { return n * 8 + lane % 4 * (n < wide ? 8 : 4); }
  /// Whether this lane's words from n on, a whole access, are channels.
  [[nodiscard]] __device__ static bool real(int n, int lane) { return !Tr::padded || column(n, lane) < Tr::width; }

  __device__ gate_rows(int r, direction_slices<Tr> const& at, int unit, T const* sequence, int length) {
    int const lane = thread_here() % 32;
    T const* const from = sequence + at.z() + unit * Tr::width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T const* const row = from + at.row(min(token(r, half, lane), length - 1), length) * Tr::projected;
#pragma unroll
      for (int n = 0; n < wide; n += 4) {
        uint4 v{};
        if (real(n, lane)) v = *reinterpret_cast<uint4 const*>(row + column(n, lane));
        z[half][n] = v.x, z[half][n + 1] = v.y, z[half][n + 2] = v.z, z[half][n + 3] = v.w;
      }
#pragma unroll
      for (int n = wide; n < words; n += 2) {
        uint2 v{};
        if (real(n, lane)) v = *reinterpret_cast<uint2 const*>(row + column(n, lane));
        z[half][n] = v.x, z[half][n + 1] = v.y;
      }
    }
  }
  /// g = y silu(z); the squares of this lane's part of each row are added to `sums`.
  __device__ void write(float const (&acc)[words][4], int r, direction_slices<Tr> const& at, int second, int unit,
                        std::size_t first_row, mixer_core_arguments<T> const& p, float (&sums)[2]) const {
    int const lane = thread_here() % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t out[words];
#pragma unroll
      for (int n = 0; n < words; ++n) {
        float2 const gate = unpack<T>(z[half][n]);
        float const first = acc[n][half * 2] * silu_fast(gate.x), next = acc[n][half * 2 + 1] * silu_fast(gate.y);
        if (real(n < wide ? n & ~3 : n & ~1, lane)) sums[half] = fmaf(first, first, fmaf(next, next, sums[half]));
        out[n] = pack<T>(first, next);
      }
      int const t = token(r, half, lane);
      if (t >= p.length) continue;
      std::size_t const row = 2 * (first_row + std::size_t(at.row(t, p.length))) + std::size_t(second);
      T* const g = p.g + row * Tr::inner + unit * Tr::width;
#pragma unroll
      for (int n = 0; n < wide; n += 4)
        if (real(n, lane))
          __stcg(reinterpret_cast<uint4*>(g + column(n, lane)), uint4{out[n], out[n + 1], out[n + 2], out[n + 3]});
#pragma unroll
      for (int n = wide; n < words; n += 2)
        if (real(n, lane)) __stcg(reinterpret_cast<uint2*>(g + column(n, lane)), uint2{out[n], out[n + 1]});
    }
  }
};

/// The squares' sums of a tile's rows over the units [begin, end), which the four lanes of a row have in parts: to their
/// first place in `squares`, zeros to the others; or, where `scales` is not null, what norms the rows to scales [tokens],
/// the first of which is of token `start`.
template <class Tr>
__device__ inline void write_sums(float (&sums)[2], int r, direction_slices<Tr> const& at, int second, int begin,
                                  int end, std::size_t first_row, mixer_core_arguments<typename Tr::element> const& p,
                                  int start, float* scales) {
  int const lane = int(threadIdx.x) % 32, part = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = sums[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    int const t = gate_rows<Tr>::token(r, half, lane);
    if (t >= p.length) continue;
    if (scales != nullptr) {
      if (part == 0) scales[t - start] = rsqrtf(sum * (1.f / Tr::group) + 1e-5f);
      continue;
    }
    std::size_t const row = 2 * (first_row + std::size_t(at.row(t, p.length))) + std::size_t(second);
    for (int u = begin + part; u < end; u += 4) p.squares[row * Tr::units + std::size_t(u)] = u == begin ? sum : 0.f;
  }
}

/// Eight numbers times a factor, and the norm's weights where there are any, from channel c on.
template <class Tr>
__device__ inline packed<8> scaled(packed<8> x, float factor, float const* norm, int c, bool reversed) {
  using T = typename Tr::element;
  float w[8];
  if (norm != nullptr) {
    float4 const* const from = reinterpret_cast<float4 const*>(norm + (reversed ? Tr::inner - 8 - c : c));
    float4 const low = from[0], high = from[1];
    float const v[8]{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = factor * (reversed ? v[7 - k] : v[k]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = factor;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    float2 const v = unpack<T>(x.word[k]);
    x.word[k] = pack<T>(v.x * w[2 * k], v.y * w[2 * k + 1]);
  }
  return x;
}

/// Norms a group's channels of `count` tokens from `start` on, which the block has made and which the caches still hold;
/// `scales` [count] is shared memory, in the order of the direction's tokens.
template <class Tr>
__device__ inline void finish_rows(mixer_core_arguments<typename Tr::element> const& p, direction_slices<Tr> const& at,
                                   std::size_t first_row, int second, int group, int start, int count,
                                   float const* scales) {
  constexpr int pieces = Tr::group / 8, pitch = 2 * Tr::inner / 8, ahead = 4;
  bool const reversed = second == 1 && Tr::reverse_channels;
  int const top = at.tokens_reversed ? p.length - start - count : start;  // of the rows, in memory's order
  packed<8>* const g =
      reinterpret_cast<packed<8>*>(p.g + (2 * (first_row + std::size_t(top)) + std::size_t(second)) * Tr::inner) +
      group * pieces;
#pragma unroll 1
  for (int first = int(threadIdx.x); first < count * pieces; first += ahead * Tr::threads) {
    packed<8> x[ahead];
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < count * pieces) x[a] = g[i / pieces * pitch + i % pieces];
    }
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < count * pieces)
        g[i / pieces * pitch + i % pieces] = scaled<Tr>(x[a], scales[at.row(i / pieces, count)], p.norm[second],
                                                        (group * pieces + i % pieces) * 8, reversed);
    }
  }
}

}  // namespace dm2::cuda::detail
