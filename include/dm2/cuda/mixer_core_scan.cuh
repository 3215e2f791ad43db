/// @file
/// The fused mixer core's scan: the scores of 16 tokens, decayed, times x, on the tensor cores.
#pragma once

#include <dm2/cuda/mixer_core_layout.cuh>
#include <dm2/cuda/mma.cuh>
#include <dm2/cuda/pack.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// What a warp needs to multiply its tile's row of S with x or X'.
template <class Tr>
struct unit_operands {
  using T = typename Tr::element;
  static constexpr int G = Tr::column_groups;
  unsigned char const* scores;  ///< the warp's row of tiles, this lane's part
  std::uint32_t x, scaled;      ///< this lane's place in the first tile
  std::uint32_t state = 0;      ///< the same, of the state that is carried

  __device__ unit_operands(int r, mixer_core_layout<Tr> const& lay, unsigned char const* shared) {
    int const lane = thread_here() % 32;
    scores = shared + lay.scores + r * (r + 1) / 2 * 512 + lane * 16;
    std::uint32_t const matrix = shared_address(shared) + std::uint32_t((lane % 16) * Tr::pitch + lane / 16 * 16);
    x = matrix + std::uint32_t(lay.x);
    scaled = matrix + std::uint32_t(lay.scaled);
    if constexpr (Tr::carries) state = matrix + std::uint32_t(lay.state);
  }
  __device__ void load_scores(std::uint32_t (&a)[4], int c) const {
    uint4 const v = *reinterpret_cast<uint4 const*>(scores + c * 512);
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  }
  __device__ void load_columns(std::uint32_t (&b)[4], std::uint32_t from, int c, int n) const {
    load_matrix_transposed(b, from + std::uint32_t(c * 16 * Tr::pitch + n * 32));
  }
  __device__ static void multiply(float (&acc)[2 * G][4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[4],
                                  int n) {
    mma<T>(acc[2 * n], a, b[0], b[1]);
    mma<T>(acc[2 * n + 1], a, b[2], b[3]);
  }
  /// acc += a x for the 16 tokens of tile c.
  __device__ void multiply_tile(float (&acc)[2 * G][4], std::uint32_t const (&a)[4], std::uint32_t from, int c) const {
    std::uint32_t b[G][4];
#pragma unroll
    for (int n = 0; n < G; ++n) load_columns(b[n], from, c, n);
#pragma unroll
    for (int n = 0; n < G; ++n) multiply(acc, a, b[n], n);
  }
};

/// Scores of tile c, as fragments, times factors of its columns, which are there in pairs of 16-bit numbers.
template <class Tr>
__device__ inline void scale_columns(std::uint32_t (&a)[4], int c, unsigned char const* factors) {
  using T = typename Tr::element;
  std::uint32_t const* const pair = reinterpret_cast<std::uint32_t const*>(factors) + c * 8 + thread_here() % 4;
  std::uint32_t const low = pair[0], high = pair[4];
  a[0] = multiply_pairs<T>(a[0], low), a[1] = multiply_pairs<T>(a[1], low);
  a[2] = multiply_pairs<T>(a[2], high), a[3] = multiply_pairs<T>(a[3], high);
}

/// What the blocks of 64 tokens before the warp's own add to its rows, decayed to the own block's start. Where a state is
/// carried, acc begins with what it adds, decayed to the first block's start, and the scores take the factors
/// dt_j exp(e_J - c_j) that X' has else.
template <class Tr>
__device__ inline void scan_before(float (&acc)[2 * Tr::column_groups][4], int own, unit_operands<Tr> const& in,
                                   float const* cum, unsigned char const* factors) {
#pragma unroll 1
  for (int block = 0; block < own; ++block) {
    if (Tr::carries || block > 0) {
      float const decay = exp2_fast(cum[block * 64 + 63] - (block > 0 ? cum[block * 64 - 1] : 0.f));
#pragma unroll
      for (int n = 0; n < 2 * Tr::column_groups; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[n][e] *= decay;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::uint32_t a[4];
      in.load_scores(a, block * 4 + i);
      if constexpr (Tr::carries) scale_columns<Tr>(a, block * 4 + i, factors);
      in.multiply_tile(acc, a, in.scaled, block * 4 + i);
    }
  }
}

/// Scores of a tile as they come, as fragments, times dt_j exp(c_i - c_j), of two columns of a row.
template <class T>
__device__ inline float2 decayed(std::uint32_t scores, float at_row, float2 to) {
  float2 v = unpack<T>(scores);
  v.x *= exp2_fast(at_row - to.x);
  v.y *= exp2_fast(at_row - to.y);
  return v;
}

/// The warp's own block of 64 tokens, up to each row's own token, whose skip term is added to its score.
template <class Tr>
__device__ inline void scan_own(float (&acc)[2 * Tr::column_groups][4], int r, unit_operands<Tr> const& in,
                                float const* cum, float const* ev, float skip) {
  using T = typename Tr::element;
  int const lane = thread_here() % 32, row = lane / 4, column = lane % 4 * 2, own = r / 4;
  float const low = cum[r * 16 + row], high = cum[r * 16 + 8 + row];
  if (Tr::carries || own > 0) {
    float const start = own > 0 ? cum[own * 64 - 1] : 0.f, f[2]{exp2_fast(low - start), exp2_fast(high - start)};
#pragma unroll
    for (int n = 0; n < 2 * Tr::column_groups; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[n][e] *= f[e / 2];
  }
  std::uint32_t a[4];
  auto const columns = [&](int c, int half) {
    return *reinterpret_cast<float2 const*>(ev + c * 16 + half * 8 + column);
  };
#pragma unroll 1
  for (int c = own * 4; c < r; ++c) {
    in.load_scores(a, c);
#pragma unroll
    for (int e = 0; e < 4; ++e) {  // row half e % 2, column half e / 2
      float2 const v = decayed<T>(a[e], e % 2 == 0 ? low : high, columns(c, e / 2));
      a[e] = pack<T>(v.x, v.y);
    }
    in.multiply_tile(acc, a, in.x, c);
  }
  in.load_scores(a, r);
  auto const edge = [&](float2 v) {  // tokens after the row's own do not count; the skip term's x is not decayed
    v.x = column < row ? v.x : column == row ? v.x + skip : 0.f;
    v.y = column + 1 < row ? v.y : column + 1 == row ? v.y + skip : 0.f;
    return pack<T>(v.x, v.y);
  };
  a[0] = edge(decayed<T>(a[0], low, columns(r, 0)));
  float2 const below = decayed<T>(a[1], high, columns(r, 0));
  a[1] = pack<T>(below.x, below.y);
  a[2] = 0;
  a[3] = edge(decayed<T>(a[3], high, columns(r, 1)));
  in.multiply_tile(acc, a, in.x, r);
}

}  // namespace dm2::cuda::detail
