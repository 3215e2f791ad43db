/// @file
/// The fused mixer core's results: gate, squares, and the norm where a block has made whole rows.
#pragma once

#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/pack.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// One unit's gate and result for the 32 tokens from 32 q on.
template <class Tr>
struct gate_rows {
  using T = typename Tr::element;
  static constexpr int G = Tr::column_groups;
  packed<4> z[2][2][G];

  [[nodiscard]] __device__ static int token(int q, int m, int half) {
    return q * 32 + m * 16 + half * 8 + int(threadIdx.x) % 32 / 4;
  }
  /// Starts the loads: they are under way while the scan's last part is computed.
  __device__ gate_rows(int q, direction_slices<Tr> const& at, int unit, T const* sequence, int length) {
    T const* const from = sequence + at.z() + unit * Tr::columns + int(threadIdx.x) % 4 * 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        T const* const row = from + at.row(min(token(q, m, half), length - 1), length) * Tr::projected;
#pragma unroll
        for (int n = 0; n < G; ++n) z[m][half][n] = *reinterpret_cast<packed<4> const*>(row + n * 16);
      }
  }
  /// g = y silu(z), and each token's sum of squares.
  __device__ void write(float const (&acc)[2][2 * G][4], int q, direction_slices<Tr> const& at, int second, int unit,
                        std::size_t first_row, mixer_core_arguments<T> const& p) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const t = token(q, m, half);
        bool const inside = t < p.length;
        std::size_t const row = 2 * (first_row + std::size_t(at.row(inside ? t : 0, p.length))) + std::size_t(second);
        T* const g = p.g + row * Tr::inner + unit * Tr::columns + lane % 4 * 4;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < G; ++n) {
          float2 const z0 = unpack<T>(z[m][half][n].word[0]), z1 = unpack<T>(z[m][half][n].word[1]);
          float const v[4]{acc[m][2 * n][half * 2] * silu_fast(z0.x), acc[m][2 * n][half * 2 + 1] * silu_fast(z0.y),
                           acc[m][2 * n + 1][half * 2] * silu_fast(z1.x),
                           acc[m][2 * n + 1][half * 2 + 1] * silu_fast(z1.y)};
#pragma unroll
          for (int e = 0; e < 4; ++e) sum = fmaf(v[e], v[e], sum);
          if (inside) *reinterpret_cast<packed<4>*>(g + n * 16) = {{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])}};
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (inside && lane % 4 == 0) p.squares[row * Tr::units + std::size_t(unit)] = sum;
      }
  }
};

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

/// Norms the block's rows, which it has made whole and which the caches still hold; `scales` [length] is shared memory.
template <class Tr>
__device__ inline void finish_rows(mixer_core_arguments<typename Tr::element> const& p, std::size_t first_row,
                                   int second, float* scales) {
  constexpr int pieces = Tr::inner / 8, ahead = 4;
  for (int r = int(threadIdx.x); r < p.length; r += Tr::threads) {
    float const* const squares = p.squares + (2 * (first_row + std::size_t(r)) + std::size_t(second)) * Tr::units;
    float sum = 0;
#pragma unroll
    for (int u = 0; u < Tr::units; ++u) sum += squares[u];
    scales[r] = rsqrtf(sum * (1.f / Tr::inner) + 1e-5f);
  }
  __syncthreads();
  bool const reversed = second == 1 && Tr::reverse_channels;
  packed<8>* const g = reinterpret_cast<packed<8>*>(p.g + (2 * first_row + std::size_t(second)) * Tr::inner);
#pragma unroll 1
  for (int first = int(threadIdx.x); first < p.length * pieces; first += ahead * Tr::threads) {
    packed<8> x[ahead];
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < p.length * pieces) x[a] = g[i / pieces * 2 * pieces + i % pieces];
    }
#pragma unroll
    for (int a = 0; a < ahead; ++a) {
      int const i = first + a * Tr::threads;
      if (i < p.length * pieces)
        g[i / pieces * 2 * pieces + i % pieces] =
            scaled<Tr>(x[a], scales[i / pieces], p.norm[second], i % pieces * 8, reversed);
    }
  }
}

}  // namespace dm2::cuda::detail
