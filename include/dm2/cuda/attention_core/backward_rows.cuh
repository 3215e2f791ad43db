/// @file
/// Sixteen queries of the attention's backward kernel, a warp: their softmax's weights, and the gradients of their
/// scores.
#pragma once

#include <dm2/cuda/attention_core/backward_layout.cuh>
#include <dm2/cuda/attention_core/softmax.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cmath>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// Sixteen rows of S or D, rounded, as the accumulators of q k^T lie, which is a left operand's order too.
template <class Tr>
struct weight_rows {
  std::uint32_t part[Tr::groups][4];
};

/// pack, whose two numbers the compiler does not carry on to where the result is read.
template <class T>
__device__ inline std::uint32_t pack_now(float low, float high) {
  return fresh(pack<T>(low, high));
}

/// This lane's place for its two rows of the near keys' and of the far keys' weights.
template <class Tr>
__device__ inline std::uint32_t* near_place(typename Tr::element* shared) {
  int const thread = fresh_thread(), lane = thread % 32, row = thread / 32 * 16 + fragment::row(lane);
  return reinterpret_cast<std::uint32_t*>(shared + Tr::weights + row * Tr::near_pitch + fragment::column(lane));
}
template <class Tr>
__device__ inline std::uint32_t* far_place(typename Tr::element* shared) {
  int const thread = fresh_thread(), lane = thread % 32, row = thread / 32 * 16 + fragment::row(lane);
  return reinterpret_cast<std::uint32_t*>(shared + Tr::values + row * Tr::far_pitch + fragment::column(lane));
}
/// Register i of group g, in 32-bit words from such a place on.
__device__ inline constexpr int word_of(int g, int i, int pitch) {
  return (i % 2 * 8 * pitch + 16 * g + i / 2 * 8) / 2;
}

/// out = left right^T, of 16 rows of left and 16 Groups rows of right; both as arrays of `pitch` in shared memory.
template <class Tr, int Groups>
__device__ inline void row_products(typename Tr::element const* left, typename Tr::element const* right,
                                    float (&out)[2 * Groups][4]) {
  int const lane = fresh_thread() % 32;
  std::uint32_t const rows = shared_address(left) + std::uint32_t(fragment::left_operand(lane, Tr::pitch * 2));
  std::uint32_t const columns = shared_address(right) + std::uint32_t(fragment::right_operand(lane, Tr::pitch * 2));
#pragma unroll
  for (int n = 0; n < 2 * Groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] = 0.f;
  std::uint32_t next[4];
  load_matrix(next, rows);
#pragma unroll 1
  for (int k = 0; k < Tr::head_dim / 16; ++k) {
    std::uint32_t const a[4]{next[0], next[1], next[2], next[3]};
    load_matrix(next, rows + unsigned(32 * min(k + 1, Tr::head_dim / 16 - 1)));
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      std::uint32_t b[4];
      load_matrix(b, columns + unsigned(g * 16 * Tr::pitch * 2 + 32 * k));
      mma<typename Tr::element>(out[2 * g], a, b[0], b[1]);
      mma<typename Tr::element>(out[2 * g + 1], a, b[2], b[3]);
    }
  }
}

/// Products q k to the softmax's weights, those of keys after the last to 0.
template <class Tr>
__device__ inline void weigh_rows(float (&s)[2 * Tr::groups][4], int length) {
  int const t = fresh_thread() % 4;
  float const scale = log2_e * rsqrtf(float(Tr::head_dim));
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
#pragma unroll
  for (int n = 0; n < 2 * Tr::groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * n + 2 * t + i % 2 >= length) s[n][i] = -INFINITY;
      top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) top[r] = max_over_row(top[r]) * scale;
#pragma unroll
  for (int n = 0; n < 2 * Tr::groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = exp2_fast(fmaf(s[n][i], scale, -top[i / 2]));
      sum[i / 2] += s[n][i];
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) sum[r] = 1.f / sum_over_row(sum[r]);
#pragma unroll
  for (int n = 0; n < 2 * Tr::groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] *= sum[i / 2];
}

/// The weights S of this warp's queries, rounded: the near keys' in shared memory, the far keys' in `far`.
template <class Tr>
__device__ inline void find_weights(typename Tr::element* shared, int length,
                                    std::uint32_t (&far)[Tr::far > 0 ? Tr::far : 1][4]) {
  float s[2 * Tr::groups][4];
  row_products<Tr, Tr::groups>(shared + Tr::queries + fresh_thread() / 32 * 16 * Tr::pitch, shared + Tr::keys, s);
  weigh_rows<Tr>(s, length);
  std::uint32_t* const near = near_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Tr::groups; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::uint32_t const v =
          pack_now<typename Tr::element>(s[2 * g + i / 2][i % 2 * 2], s[2 * g + i / 2][i % 2 * 2 + 1]);
      if (g < Tr::near)
        near[word_of(g, i, Tr::near_pitch)] = v;
      else
        far[g - Tr::near][i] = v;
    }
}

/// Sums over a row's keys, a lane's two rows.
struct slope_sums {
  float dot[2] = {0.f, 0.f};     ///< of weight slope
  float weight[2] = {0.f, 0.f};  ///< of the weight

  __device__ void add(int r, float2 w, float slope0, float slope1) {
    dot[r] = fmaf(w.x, slope0, fmaf(w.y, slope1, dot[r]));
    weight[r] += w.x + w.y;
  }
  /// The mean slope of row r, so far. Divided by the sum of the rounded weights, so that a row of D adds up to zero as
  /// exactly as its weights allow, also where one of them is close to 1.
  __device__ float mean(int r) const {
    float const sum = sum_over_row(weight[r]);
    return sum_over_row(dot[r]) / (sum > 0.f ? sum : 1.f);
  }
};

/// The weights of keys 16 g to 16 g + 15, register i.
template <class Tr>
__device__ inline float2 weights_of(std::uint32_t const* near, std::uint32_t const (&far)[Tr::far > 0 ? Tr::far : 1][4],
                                    int g, int i) {
  return unpack<typename Tr::element>(g < Tr::near ? near[word_of(g, i, Tr::near_pitch)]
                                                   : fresh(far[max(g - Tr::near, 0)][i]));
}

/// D of this warp's queries and Count groups of keys from First on, as far as `mean` is that of all keys; with First =
/// 0 `mean` is found first, of these keys.
template <class Tr, int First, int Count>
__device__ inline void find_slopes(typename Tr::element* shared,
                                   std::uint32_t const (&far)[Tr::far > 0 ? Tr::far : 1][4], slope_sums& sums,
                                   float (&mean)[2], weight_rows<Tr>& d) {
  float s[2 * Count][4];
  row_products<Tr, Count>(shared + Tr::slopes + fresh_thread() / 32 * 16 * Tr::pitch,
                          shared + Tr::values + 16 * First * Tr::pitch, s);
  std::uint32_t const* near = near_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Count; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const n = 2 * g + i / 2, r = i % 2;
      sums.add(r, weights_of<Tr>(near, far, First + g, i), s[n][2 * r], s[n][2 * r + 1]);
    }
  if (First == 0)
#pragma unroll
    for (int r = 0; r < 2; ++r) mean[r] = sums.mean(r);
  near = near_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Count; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const n = 2 * g + i / 2, r = i % 2;
      float2 const w = weights_of<Tr>(near, far, First + g, i);
      d.part[First + g][i] =
          pack_now<typename Tr::element>(w.x * (s[n][2 * r] - mean[r]), w.y * (s[n][2 * r + 1] - mean[r]));
    }
}

/// D of this warp's queries, a third of the keys at a time, since all slopes of a row would not fit in registers. What
/// is subtracted is the first third's mean first, and corrected to that of all keys then: both lie between slopes of
/// the row, so that the two roundings are of numbers as large as the slopes' spread.
template <class Tr>
__device__ inline void find_slopes(typename Tr::element* shared,
                                   std::uint32_t const (&far)[Tr::far > 0 ? Tr::far : 1][4], weight_rows<Tr>& d) {
  using T = typename Tr::element;
  constexpr int third = (Tr::groups + 2) / 3, last = Tr::groups - 2 * third;
  slope_sums sums;
  float mean[2];
  find_slopes<Tr, 0, third>(shared, far, sums, mean, d);
  find_slopes<Tr, third, third>(shared, far, sums, mean, d);
  if constexpr (last > 0) find_slopes<Tr, 2 * third, last>(shared, far, sums, mean, d);
#pragma unroll
  for (int r = 0; r < 2; ++r) mean[r] -= sums.mean(r);
  std::uint32_t const* const near = near_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Tr::groups; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const w = weights_of<Tr>(near, far, g, i), x = unpack<T>(d.part[g][i]);
      d.part[g][i] = pack_now<T>(fmaf(w.x, mean[i % 2], x.x), fmaf(w.y, mean[i % 2], x.y));
    }
}

}  // namespace dm2::cuda::detail::attention_core
