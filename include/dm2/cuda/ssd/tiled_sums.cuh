/// @file
/// A warp's sums of weighted scores times x.
///
/// 32 tokens by a unit's columns, in float or in TF32. `each` gives neighbouring columns together.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// In float: a lane has four tokens, and four columns of each 16. Neighbouring lanes read one x, and lanes two apart
/// one row of weights, so that a half warp's 16-byte reads are one pass over the banks. With four columns in four
/// neighbouring lanes x took twice the passes: 14 for 48 products a lane, of which a multiprocessor has time for 12.
template <class Tr>
struct tiled_sums {
  static constexpr int fragments = Tr::columns / 16;
  float v[4][fragments][4] = {};

  __device__ static int row() { return (int(threadIdx.x) % 32 / 8 * 2 + int(threadIdx.x) % 2) * 4; }
  __device__ static int column(int n) { return 16 * n + int(threadIdx.x) % 8 / 2 * 4; }
  /// The sum over the four lanes that share a token, in each of them, and whether this lane is the first of them.
  __device__ static float over_token(float x) {
    x += __shfl_xor_sync(~0u, x, 2);
    return x + __shfl_xor_sync(~0u, x, 4);
  }
  __device__ static bool first_of_token() { return threadIdx.x % 8 < 2; }

  /// += the product of a slab.
  __device__ void multiply(float const (&weights)[Tr::depth][Tr::weight_pitch],
                           float const (&x)[Tr::depth][Tr::x_pitch]) {
#pragma unroll
    for (int k = 0; k < Tr::depth; ++k) {
      auto const w = load_packet<4>(&weights[k][row()]);
#pragma unroll
      for (int n = 0; n < fragments; ++n) {
        auto const u = load_packet<4>(&x[k][column(n)]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c) v[i][n][c] = fmaf(w.v[i], u.v[c], v[i][n][c]);
      }
    }
  }
  /// f(token, columns), columns(g) with g(column, packet of neighbouring columns). Four lanes share a token.
  template <class F>
  __device__ void each_token(F const& f) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      f(row() + i, [&](auto const& g) {
#pragma unroll
        for (int n = 0; n < fragments; ++n)
          g(column(n), packet<float, 4>{v[i][n][0], v[i][n][1], v[i][n][2], v[i][n][3]});
      });
  }
  /// f(token, column, packet of neighbouring columns).
  template <class F>
  __device__ void each(F const& f) const {
    each_token([&](int i, auto const& columns) { columns([&](int c, auto v_) { f(i, c, v_); }); });
  }
};

/// In TF32: two products of 16 tokens by 8 columns each.
template <class Tr>
struct tiled_sums_tf32 {
  static constexpr int fragments = Tr::columns / 8;
  float v[2][fragments][4] = {};

  /// As those of tiled_sums.
  __device__ static float over_token(float x) { return sum_over_lanes<4>(x); }
  __device__ static bool first_of_token() { return threadIdx.x % 4 == 0; }

  /// += the product of a slab.
  __device__ void multiply(float const (&weights)[Tr::depth][Tr::weight_pitch],
                           float const (&x)[Tr::depth][Tr::x_pitch]) {
    int const lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < Tr::depth; k += 8) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[m][i] = __float_as_uint(weights[k + t + i / 2 * 4][16 * m + i % 2 * 8 + g]);
        round_to_tf32(a[m]);
      }
#pragma unroll
      for (int n = 0; n < fragments; ++n) {
        std::uint32_t b[2]{__float_as_uint(x[k + t][8 * n + g]), __float_as_uint(x[k + t + 4][8 * n + g])};
        round_to_tf32(b);
        mma_tf32(v[0][n], a[0], b[0], b[1]), mma_tf32(v[1][n], a[1], b[0], b[1]);
      }
    }
  }
  /// f(token, columns), columns(g) with g(column, packet of neighbouring columns). Four lanes share a token.
  template <class F>
  __device__ void each_token(F const& f) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        f(16 * m + 8 * half + lane / 4, [&](auto const& g) {
#pragma unroll
          for (int n = 0; n < fragments; ++n)
            g(8 * n + lane % 4 * 2, packet<float, 2>{v[m][n][2 * half], v[m][n][2 * half + 1]});
        });
  }
  /// f(token, column, packet of neighbouring columns).
  template <class F>
  __device__ void each(F const& f) const {
    each_token([&](int i, auto const& columns) { columns([&](int c, auto v_) { f(i, c, v_); }); });
  }
};

}  // namespace dm2::cuda::detail::ssd
