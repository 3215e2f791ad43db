/// @file
/// The fused mixer core's scan: the scores of 32 tokens, decayed, times x, on the tensor cores.
#pragma once

#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/pack.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// What a warp needs to multiply its 32 tokens' rows of S with x or X'.
template <class Tr>
struct unit_operands {
  static constexpr int G = Tr::column_groups;
  unsigned char const* scores[2];  ///< the warp's two rows of tiles, this lane's part
  std::uint32_t x, scaled;         ///< this lane's place in the first tile

  __device__ unit_operands(int q, int tiles, mixer_core_layout<Tr> const& lay, unsigned char const* shared) {
    int const lane = int(threadIdx.x) % 32;
    int const r0 = 2 * q,
              r1 = min(2 * q + 1, tiles - 1);  // the last pair may have one tile: its second half is not kept
    scores[0] = shared + lay.scores + r0 * (r0 + 1) / 2 * 512 + lane * 16;
    scores[1] = shared + lay.scores + r1 * (r1 + 1) / 2 * 512 + lane * 16;
    std::uint32_t const matrix = shared_address(shared) + std::uint32_t((lane % 16) * Tr::pitch + lane / 16 * 16);
    x = matrix + std::uint32_t(lay.x);
    scaled = matrix + std::uint32_t(lay.scaled);
  }
  __device__ void load_scores(std::uint32_t (&a)[2][4], int c) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint4 const v = *reinterpret_cast<uint4 const*>(scores[m] + c * 512);
      a[m][0] = v.x, a[m][1] = v.y, a[m][2] = v.z, a[m][3] = v.w;
    }
  }
  __device__ void load_columns(std::uint32_t (&b)[4], std::uint32_t from, int c, int n) const {
    load_matrix_transposed(b, from + std::uint32_t(c * 16 * Tr::pitch + n * 32));
  }
  __device__ static void multiply(float (&acc)[2][2 * G][4], std::uint32_t const (&a)[2][4],
                                  std::uint32_t const (&b)[4], int n) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      mma<typename Tr::element>(acc[m][2 * n], a[m], b[0], b[1]);
      mma<typename Tr::element>(acc[m][2 * n + 1], a[m], b[2], b[3]);
    }
  }
};

/// What the blocks of 64 tokens before the warp's own add to its rows, decayed to the own block's start. The fragments
/// of a tile are loaded while the one before is multiplied.
template <class Tr>
__device__ inline void scan_before(float (&acc)[2][2 * Tr::column_groups][4], int own, unit_operands<Tr> const& in,
                                   float const* cum) {
  constexpr int G = Tr::column_groups;
  std::uint32_t a[2][2][4], b[2][4];
  if (own > 0) in.load_scores(a[0], 0), in.load_columns(b[0], in.scaled, 0, 0);
#pragma unroll 1
  for (int block = 0; block < own; ++block) {
    if (block > 0) {
      float const decay = exp2_fast(cum[block * 64 + 63] - cum[block * 64 - 1]);
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2 * G; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) acc[m][n][e] *= decay;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const c = block * 4 + i;
      if (c + 1 < own * 4) in.load_scores(a[(i + 1) % 2], c + 1);
#pragma unroll
      for (int n = 0; n < G; ++n) {
        int const k = i * G + n;
        if (n + 1 < G)
          in.load_columns(b[(k + 1) % 2], in.scaled, c, n + 1);
        else if (c + 1 < own * 4)
          in.load_columns(b[(k + 1) % 2], in.scaled, c + 1, 0);
        in.multiply(acc, a[i % 2], b[k % 2], n);
      }
    }
  }
}

/// The warp's own block of 64 tokens, up to each row's own token.
template <class Tr>
__device__ inline void scan_own(float (&acc)[2][2 * Tr::column_groups][4], int q, int tiles,
                                unit_operands<Tr> const& in, mixer_core_layout<Tr> const& lay, float const* cum,
                                float const* ev, float skip) {
  using T = typename Tr::element;
  constexpr int G = Tr::column_groups;
  int const lane = int(threadIdx.x) % 32, row = lane / 4, column = lane % 4 * 2, own = q / 2;
  int const last = min(2 * q + 1, tiles - 1);
  float at_row[2][2];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) at_row[m][half] = cum[min(q * 32 + m * 16 + half * 8 + row, lay.tokens - 1)];
  if (own > 0) {
    float const start = cum[own * 64 - 1];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float const f[2]{exp2_fast(at_row[m][0] - start), exp2_fast(at_row[m][1] - start)};
#pragma unroll
      for (int n = 0; n < 2 * G; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[m][n][e] *= f[e / 2];
    }
  }
#pragma unroll 1
  for (int c = own * 4; c <= last; ++c) {
    std::uint32_t a[2][4], b[2][4];
    in.load_scores(a, c);
    in.load_columns(b[0], in.x, c, 0);
    float2 const to[2]{*reinterpret_cast<float2 const*>(ev + c * 16 + column),
                       *reinterpret_cast<float2 const*>(ev + c * 16 + 8 + column)};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if (c > 2 * q + m) {
        a[m][0] = a[m][1] = a[m][2] = a[m][3] = 0;
        continue;
      }
      bool const diagonal = c == 2 * q + m;
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // row half e % 2, column half e / 2
        float2 v = unpack<T>(a[m][e]);
        v.x *= exp2_fast(at_row[m][e % 2] - to[e / 2].x);
        v.y *= exp2_fast(at_row[m][e % 2] - to[e / 2].y);
        if (diagonal) {  // tokens after the row's own do not count, and its own has the skip term
          int const i = row + e % 2 * 8, j = column + e / 2 * 8;
          v.x = j < i ? v.x : j == i ? v.x + skip : 0.f;
          v.y = j + 1 < i ? v.y : j + 1 == i ? v.y + skip : 0.f;
        }
        a[m][e] = pack<T>(v.x, v.y);
      }
    }
#pragma unroll
    for (int n = 0; n < G; ++n) {
      if (n + 1 < G) in.load_columns(b[(n + 1) % 2], in.x, c, n + 1);
      in.multiply(acc, a, b[n % 2], n);
    }
  }
}

}  // namespace dm2::cuda::detail
