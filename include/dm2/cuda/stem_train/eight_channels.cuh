/// @file
/// Eight neighbouring channels of 16 bits.
///
/// As the stem's tensor kernels in training read, change and sum them.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// Eight numbers of T.
template <class T>
__device__ inline void unpack_eight(uint4 v, float (&x)[8]) {
  std::uint32_t const r[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 const two = unpack<T>(r[i]);
    x[2 * i] = two.x, x[2 * i + 1] = two.y;
  }
}
template <class T>
__device__ inline uint4 pack_eight(float const (&x)[8]) {
  return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
}

/// Eight floats of a table in shared memory, aligned to 16 bytes.
__device__ inline void read_eight(float const* table, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float4 const v = *reinterpret_cast<float4 const*>(table + 4 * i);
    x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
  }
}

/// relu(BatchNorm(raw)) of eight channels.
struct eight_activations {
  static constexpr int tables = 2;
  float scale[8], shift[8];

  /// Channel c of `width` into a table [tables, width].
  static __device__ void fill(float* table, int width, batch_norm const& norm, int c) {
    float2 const a = norm.affine(c);
    table[c] = a.x, table[width + c] = a.y;
  }
  __device__ eight_activations(float const* table, int width, int first) {
    read_eight(table + first, scale);
    read_eight(table + width + first, shift);
  }
  /// Channels [first, first + 8) of `norm`.
  __device__ eight_activations(batch_norm const& norm, int first) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float2 const a = norm.affine(first + i);
      scale[i] = a.x, shift[i] = a.y;
    }
  }
  /// In elements of T; raw is of stem_number<T>.
  template <class T>
  __device__ uint4 apply(uint4 raw) const {
    float x[8];
    unpack_eight<stem_number<T>>(raw, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fmaf(x[i], scale[i], shift[i]);
    return make_uint4(pack_relu<T>(x[0], x[1]), pack_relu<T>(x[2], x[3]), pack_relu<T>(x[4], x[5]),
                      pack_relu<T>(x[6], x[7]));
  }
};

/// The gradient of a convolution's output from that of BatchNorm's, of eight channels.
struct eight_slopes {
  static constexpr int tables = 3;
  float a[8], b[8], c[8];

  /// Channel c of `width` into a table [tables, width].
  static __device__ void fill(float* table, int width, norm_gradient const& gradient, int c) {
    norm_slope const s = gradient.slope(c, width);
    table[c] = s.a, table[width + c] = s.b, table[2 * width + c] = s.c;
  }
  __device__ eight_slopes(float const* table, int width, int first) {
    read_eight(table + first, a);
    read_eight(table + width + first, b);
    read_eight(table + 2 * width + first, c);
  }
  template <class T>
  __device__ uint4 apply(uint4 dz, uint4 raw) const {
    float d[8], x[8];
    unpack_eight<T>(dz, d);
    unpack_eight<stem_number<T>>(raw, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) d[i] = fmaf(d[i], a[i], fmaf(x[i], b[i], c[i]));
    return pack_eight<T>(d);
  }
};

/// A lane's share of the sums of a warp.
struct lane_share {
  float sum[2] = {};

  /// To [2, width], `to` pointing at the first of the lane's eight channels.
  __device__ void write(float* to, int width) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) to[lane / 16 * width + fragment::row(lane) % 4 * 2 + i] = sum[i];
  }
};

/// Two sums for each of eight channels. Lanes l, l + 4, l + 8, ... hold sums of the same channels.
struct eight_sums {
  float one[8] = {}, two[8] = {};

  /// Adds over those lanes: each of the eight is left with two of the sixteen sums, added to `own`; they are the
  /// first ones in lanes below 16, the second ones in the others, of channels from 2 (g % 4) on, g the lane's row.
  __device__ void share_out(lane_share& own) const {
    float v[16];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = one[i], v[8 + i] = two[i];
    int const lane = int(threadIdx.x) % 32;
    exchange_halves<8, 16>(v, lane);
    exchange_halves<4, 8>(v, lane);
    exchange_halves<2, 4>(v, lane);
    own.sum[0] += v[0], own.sum[1] += v[1];
  }
};

/// Rounds eight sums, and adds them and their squares to the statistics.
template <class T>
__device__ inline uint4 round_and_sum(float const (&x)[8], eight_sums& sums) {
  uint4 const v = pack_eight<T>(x);
  float r[8];
  unpack_eight<T>(v, r);
#pragma unroll
  for (int i = 0; i < 8; ++i) sums.one[i] += r[i], sums.two[i] = fmaf(r[i], r[i], sums.two[i]);
  return v;
}

/// ReLU's backward of eight channels, where their BatchNorm's input is raw: dz, rounded, with dz and dz raw summed.
struct eight_masks : eight_activations {
  using eight_activations::eight_activations;

  template <class T>
  __device__ uint4 apply(float const (&da)[8], uint4 raw, eight_sums& sums) const {
    float x[8], dz[8];
    unpack_eight<stem_number<T>>(raw, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) dz[i] = fmaf(x[i], scale[i], shift[i]) > 0 ? da[i] : 0.f;
    uint4 const v = pack_eight<T>(dz);
    unpack_eight<T>(v, dz);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums.one[i] += dz[i], sums.two[i] = fmaf(dz[i], x[i], sums.two[i]);
    return v;
  }
};

}  // namespace dm2::cuda::detail::stem_train
