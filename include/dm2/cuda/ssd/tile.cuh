/// @file
/// Tiles of 64 tokens: decays and operands that the scan's kernels share.
///
/// A tile's decays are kept as the sum c_t = sum_k dt_k A log2(e) over the tokens k <= t of its own tile, so that sums
/// stay small, every exponent is a difference of two of them, and exp2 gives the decay.
///
/// The x operands lie in shared memory with the columns of each 16 reordered: columns 4 t, 4 t + 1 stand at 2 t and
/// columns 4 t + 2, 4 t + 3 at 8 + 2 t. After a product a lane then holds four neighbouring columns of y, and eight
/// bytes go to memory at once without an exchange between lanes.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// Tokens of a tile.
inline constexpr int ssd_tile = 64;
/// Bytes of a 16 x 16 tile of 16-bit scores, in the order of A fragments: 16 bytes a lane.
inline constexpr int fragment_bytes = 512;

/// Operands of a scan as kernels take them; shapes as in ssd_input.
template <class T>
struct arguments {
  T const *x, *b, *c;
  float const *dt, *a, *d;
  T* y;
  int length;
};

/// A mixer's sizes as constants that device code may read.
template <mixer_shape M, class T>
struct ssd_sizes {
  using element = T;
  static constexpr int heads = M.heads, headdim = M.headdim, d_state = M.d_state, groups = M.groups;
  static constexpr int per_group = heads / groups, inner = heads * headdim, state_width = groups * d_state;
};

/// The widest part of a head, a multiple of `step` columns of at most `most`, that divides it.
constexpr int widest_slice(int headdim, int most, int step = 16) {
  for (int s = most / step * step; s > step; s -= step)
    if (headdim % s == 0) return s;
  return step;
}

/// A part of a group's columns: `slice` columns of one head. Columns of x do not mix in a scan.
template <class Sizes, int Slice>
struct ssd_unit {
  static constexpr int slices = Sizes::headdim / Slice, count = Sizes::per_group * slices;
  int head, column;

  __device__ ssd_unit(int group, int unit)
      : head{group * Sizes::per_group + unit / slices}, column{head * Sizes::headdim + unit % slices * Slice} {}
};

/// dt of tokens t and t + 1 of a head; `dt` is at the sequence's first token. Zero from the sequence's end on.
template <class Sizes>
__device__ inline float2 load_steps(float const* dt, int head, int t, int length) {
  dt += std::size_t(t) * Sizes::heads + head;
  return {t < length ? __ldg(dt) : 0.f, t + 1 < length ? __ldg(dt + Sizes::heads) : 0.f};
}

/// c of a lane's two tokens of a tile, and of the tile's last token.
struct step_sums {
  float first, second, last;
};

/// One warp: those of a tile, lane l having tokens 2 l and 2 l + 1. rate = A log2(e).
///
/// A step counts at most 160: its decay 2^-160 is 0 in float as that of any larger one, and the sum after it keeps the
/// digits of later steps.
__device__ inline step_sums sum_steps(float2 dt, float rate, int lane) {
  float const first = fmaxf(dt.x * rate, -160.f), both = first + fmaxf(dt.y * rate, -160.f);
  float const sum = sum_up_to_lane(both, lane);
  float const total = __shfl_sync(~0u, sum, 31);
  float before = __shfl_up_sync(~0u, sum, 1);
  if (lane == 0) before = 0;
  return {before + first, sum, total};
}

/// One warp: the decays of a tile, lanes as above. decay[t] = {c_t, dt_t}; weight[t] = dt_t exp2(c_63 - c_t), how much
/// of token t is left at the tile's end.
__device__ inline void scan_decays(float2 dt, float rate, int lane, float4* decay, float2* weight) {
  step_sums const c = sum_steps(dt, rate, lane);
  if (decay != nullptr) decay[lane] = {c.first, dt.x, c.second, dt.y};
  if (weight != nullptr) weight[lane] = {dt.x * exp2_fast(c.last - c.first), dt.y * exp2_fast(c.last - c.second)};
}

/// A pair of 16-bit numbers times w.
template <class T>
__device__ inline std::uint32_t scale_pair(std::uint32_t v, float w) {
  float2 const x = unpack<T>(v);
  return pack<T>(x.x * w, x.y * w);
}

/// Eight numbers of a row to their place among reordered columns; `row` is at the row's first byte.
__device__ inline void store_reordered(unsigned char* row, int chunk, uint4 v) {
  unsigned char* const at = row + (chunk >> 1) * 32 + (chunk & 1) * 8;
  *reinterpret_cast<uint2*>(at) = {v.x, v.z};
  *reinterpret_cast<uint2*>(at + 16) = {v.y, v.w};
}

/// The lane's part of a tile of scores.
__device__ inline void load_fragment(std::uint32_t (&a)[4], unsigned char const* tile, int lane) {
  uint4 const v = *reinterpret_cast<uint4 const*>(tile + lane * 16);
  a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
}

/// Turns scores S_ij of a tile's fragment into S_ij exp2(c_i - c_j) dt_j, above the diagonal 0. c_low and c_high belong
/// to the fragment's rows g and g + 8, `decay` to its first column.
template <class T>
__device__ inline void decay_fragment(std::uint32_t (&a)[4], float c_low, float c_high, float2 const* decay, int lane,
                                      bool diagonal) {
  int const g = fragment::row(unsigned(lane)), t = fragment::quarter(unsigned(lane));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4 const e = *reinterpret_cast<float4 const*>(decay + 8 * half + 2 * t);
    float2 low = unpack<T>(a[2 * half]), high = unpack<T>(a[2 * half + 1]);
    low.x *= exp2_fast(c_low - e.x) * e.y, low.y *= exp2_fast(c_low - e.z) * e.w;
    high.x *= exp2_fast(c_high - e.x) * e.y, high.y *= exp2_fast(c_high - e.z) * e.w;
    if (diagonal) {  // a choice, not a factor: above the diagonal the exponential may be infinite
      bool const first = 2 * t <= g, second = 2 * t + 1 <= g;
      float2& edge = half == 0 ? low : high;
      edge = {first ? edge.x : 0.f, second ? edge.y : 0.f};
      if (half == 1) low = {0.f, 0.f};
    }
    a[2 * half] = pack<T>(low.x, low.y), a[2 * half + 1] = pack<T>(high.x, high.y);
  }
}

/// acc[m] += a[m] x for `Rows` fragments a from row tile `First` on and 16 tokens of an x operand; lanes give
/// ldmatrix's addresses.
template <class T, int First, int Rows, int Columns>
__device__ inline void multiply_x(float (&acc)[Rows][Columns / 8][4], std::uint32_t const (&a)[Rows][4],
                                  std::uint32_t x) {
#pragma unroll
  for (int n = 0; n < Columns / 16; ++n) {
    std::uint32_t b[4];
    load_matrix_transposed(b, x + n * 32);
#pragma unroll
    for (int m = First; m < Rows; ++m) {
      mma<T>(acc[m][2 * n], a[m], b[0], b[1]);
      mma<T>(acc[m][2 * n + 1], a[m], b[2], b[3]);
    }
  }
}

/// acc's rows g (times low) and g + 8 (times high).
template <int N>
__device__ inline void scale_rows(float (&acc)[N][4], float low, float high) {
#pragma unroll
  for (int n = 0; n < N; ++n) acc[n][0] *= low, acc[n][1] *= low, acc[n][2] *= high, acc[n][3] *= high;
}

/// y = acc + skip x for one row of the accumulators, Half 0: row g, 1: row g + 8. `x` is that row in shared memory,
/// reordered, `y` its first column in global memory.
template <class T, int Half, int N>
__device__ inline void write_row(float const (&acc)[N][4], unsigned char const* x, float skip, T* y, int lane) {
  int const t = fragment::quarter(unsigned(lane));
#pragma unroll
  for (int n = 0; n < N / 2; ++n) {
    float2 const low = unpack<T>(*reinterpret_cast<std::uint32_t const*>(x + n * 32 + t * 4));
    float2 const high = unpack<T>(*reinterpret_cast<std::uint32_t const*>(x + n * 32 + 16 + t * 4));
    float const *p = acc[2 * n] + 2 * Half, *q = acc[2 * n + 1] + 2 * Half;
    uint2 const v{pack<T>(fmaf(skip, low.x, p[0]), fmaf(skip, low.y, p[1])),
                  pack<T>(fmaf(skip, high.x, q[0]), fmaf(skip, high.y, q[1]))};
    __stcg(reinterpret_cast<uint2*>(y + n * 16 + t * 4), v);  // never two stores of four bytes
  }
}

/// write_row for the rows g and g + 8 of a tile that are inside the sequence. `x` and `y` are at row g, which is token
/// `token`; y's rows are `stride` apart.
template <class T, int N>
__device__ inline void write_tile(float const (&acc)[N][4], unsigned char const* x, int pitch, float skip, T* y,
                                  int stride, int token, int length, int lane) {
  if (token < length) write_row<T, 0>(acc, x, skip, y, lane);
  if (token + 8 < length) write_row<T, 1>(acc, x + 8 * pitch, skip, y + 8 * stride, lane);
}

}  // namespace dm2::cuda::detail::ssd
