/// @file
/// The cross entropy of one row of logits against its target, and the gradient in the logits' place: by a warp, or by a
/// block.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/token_label_loss/target.cuh>

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// N numbers as they lie in memory, two of 16 bits in a register.
template <class T, int N>
struct number_packet {
  using word = std::conditional_t<is_half<T> && N % 2 == 0, std::uint32_t, T>;
  static constexpr int words = int(N * sizeof(T) / sizeof(word));
  packet<word, words> p;

  __device__ void read(T const* from) { p = load_packet<words>(reinterpret_cast<word const*>(from)); }
  __device__ void values(float (&x)[N]) const {
#pragma unroll
    for (int i = 0; i < words; ++i) {
      if constexpr (words == N) {
        x[i] = to_float(p.v[i]);
      } else {
        float2 const two = unpack<T>(p.v[i]);
        x[2 * i] = two.x;
        x[2 * i + 1] = two.y;
      }
    }
  }
  __device__ static void write(float const (&x)[N], T* to) {
    packet<word, words> out;
#pragma unroll
    for (int i = 0; i < words; ++i) {
      if constexpr (words == N)
        out.v[i] = from_float<T>(x[i]);
      else
        out.v[i] = pack<T>(x[2 * i], x[2 * i + 1]);
    }
    store_packet<words>(reinterpret_cast<word*>(to), out);
  }
};

/// N numbers of a target, of which `at` is a multiple.
template <int N>
__device__ inline void read_target(float const* at, float (&x)[N]) {
  constexpr int step = N % 4 == 0 ? 4 : N;
#pragma unroll
  for (int i = 0; i < N; i += step) {
    packet<float, step> const p = load_packet<step>(at + i);
#pragma unroll
    for (int k = 0; k < step; ++k) x[i + k] = p.v[k];
  }
}

/// A row of logits that a warp goes over several times: from its registers, or from memory where it has no packets.
template <class Tr>
struct warp_logits {
  using T = typename Tr::element;
  using numbers = number_packet<T, Tr::packet>;
  T const* row;
  numbers kept[Tr::keep ? Tr::packets : 1];

  __device__ static int column(int j) { return (j * 32 + int(threadIdx.x) % 32) * Tr::packet; }
  __device__ static bool whole(int j) { return (j + 1) * 32 * Tr::packet <= Tr::classes; }
  __device__ explicit warp_logits(T const* from) : row{from} {
    if constexpr (Tr::keep) {
#pragma unroll
      for (int j = 0; j < Tr::packets; ++j)
        if (whole(j) || column(j) < Tr::classes) kept[j].read(row + column(j));
    }
  }
  /// visit(values, first column) for each packet of this lane.
  template <class Visit>
  __device__ void for_each_packet(Visit const& visit) const {
#pragma unroll(Tr::keep ? Tr::packets : 4)
    for (int j = 0; j < Tr::packets; ++j)
      if (whole(j) || column(j) < Tr::classes) {
        float x[Tr::packet];
        if constexpr (Tr::keep) {
          kept[j].values(x);
        } else {
          numbers n;
          n.read(row + column(j));
          n.values(x);
        }
        visit(x, column(j));
      }
  }
};

/// The cross entropy of a row, -sum_c t_c log softmax(l)_c, and its gradient times `weight` into `grad`:
/// mass softmax(l) - t. `grad` may be the logits.
template <class Tr>
__device__ inline float warp_row(warp_logits<Tr> const& logits, formed_row const& t, float weight,
                                 typename Tr::element* grad) {
  constexpr int n = Tr::packet;
  float top = -INFINITY, sum = 0, dot = 0;
  logits.for_each_packet([&](float const(&l)[n], int) {
#pragma unroll
    for (int i = 0; i < n; ++i) top = fmaxf(top, l[i]);
  });
  top = max_over_warp(top);
  float const bias = -top * log2_e;
  logits.for_each_packet([&](float const(&l)[n], int) {
#pragma unroll
    for (int i = 0; i < n; ++i) sum += exp2_fast(fmaf(l[i], log2_e, bias));
  });
  sum = sum_over_warp(sum);
  float const share = weight * t.mass / sum;
  // The same number by a way that the compiler cannot see through: it would keep every exponential for the next pass,
  // in registers that there are not.
  float const again = __shfl_sync(0xffffffffu, bias, 0);
  logits.for_each_packet([&](float const(&l)[n], int c) {
    float target[n], d[n];
    read_target<n>(t.extra + c, target);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      target[i] += t.base;
      dot = fmaf(target[i], l[i] - top, dot);
      d[i] = fmaf(share, exp2_fast(fmaf(l[i], log2_e, again)), -weight * target[i]);
    }
    number_packet<typename Tr::element, n>::write(d, grad + c);
  });
  return t.mass * logf(sum) - sum_over_warp(dot);
}

/// The same by a block from a dense target, in three passes over the row. `grad` may be `logits`.
template <int K, class T>
__device__ inline float block_row(T const* logits, target_memory const& m, float weight, T* grad) {
  int const thread = int(threadIdx.x);
  float top = -INFINITY, sum = 0, dot = 0, mass = 0;
  for (int c = thread; c < K; c += loss_threads) top = fmaxf(top, to_float(logits[c]));
  top = max_over_loss_block(top, m.sums);
  float const bias = -top * log2_e;
  for (int c = thread; c < K; c += loss_threads) {
    float const l = to_float(logits[c]), t = m.target[c];
    sum += exp2_fast(fmaf(l, log2_e, bias));
    dot = fmaf(t, l - top, dot);
    mass += t;
  }
  sum = sum_over_loss_block(sum, m.sums);
  dot = sum_over_loss_block(dot, m.sums);
  mass = sum_over_loss_block(mass, m.sums);
  float const share = weight * mass / sum;
  for (int c = thread; c < K; c += loss_threads)
    grad[c] = from_float<T>(fmaf(share, exp2_fast(fmaf(to_float(logits[c]), log2_e, bias)), -weight * m.target[c]));
  return mass * logf(sum) - dot;
}

}  // namespace dm2::cuda::detail
