/// @file
/// The mixer core for few sequences: its arguments, and the convolution as a kernel of its own.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

template <class T>
struct few_mixer_arguments {
  T const* zxbcdt;  ///< [B L, projected]
  T* convolved;     ///< [2, B L, conv_dim]: each direction's silu(conv(xBC)), channels in the direction's order
  T* g;             ///< [B L, 2 inner], before its norm
  float* squares;   ///< [B L, 2, units], parts of each row's sum of g^2
  mixer_direction_pointers direction[2];
  int sequences, length;
};

/// convolved = silu(conv(xBC)) for both directions: a thread four channels of four tokens. The kernel's blocks are all of
/// that, 128 threads each.
template <class Tr>
__global__ void __launch_bounds__(128)
    few_conv_kernel(__grid_constant__ few_mixer_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  constexpr int V = 4, S = 4, before = Tr::taps - 1, groups = Tr::conv_dim / V;
  let_next_start();
  int const task = int(blockIdx.x) * 128 + int(threadIdx.x), runs = (p.length + S - 1) / S;
  int const run = task / groups % runs, sequence = task / groups / runs % p.sequences;
  int const second = task / groups / runs / p.sequences;
  direction_slices<Tr> const at{second == 1};
  int const slice = at.channels_reversed ? Tr::heads : Tr::inner, channel = task % groups * V;
  float weight[Tr::taps][V], bias[V];
  if (second < 2) {
    mixer_direction_pointers const& from = p.direction[second];
#pragma unroll
    for (int v = 0; v < V; ++v) {  // halved: the sum is the h of silu(2 h) = h tanh(h) + h
      int const c = at.conv_channel(slice, channel + v);
      bias[v] = 0.5f * from.conv_bias[c];
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) weight[k][v] = 0.5f * from.conv[c * Tr::taps + k];
    }
  }
  wait_for_previous();
  if (second >= 2) return;
  std::ptrdiff_t const first_row = std::ptrdiff_t(sequence) * p.length;
  float x[before + S][V];
#pragma unroll
  for (int i = 0; i < before + S; ++i) {
    int const t = run * S + i - before;
    packed<V> r{};
    if (t >= 0 && t < p.length)
      r = *reinterpret_cast<packed<V> const*>(p.zxbcdt + (first_row + at.row(t, p.length)) * Tr::projected + slice +
                                              channel);
    float2 const low = unpack<T>(r.word[0]), high = unpack<T>(r.word[1]);
    x[i][0] = low.x, x[i][1] = low.y, x[i][2] = high.x, x[i][3] = high.y;
  }
  T* const to = p.convolved + (std::ptrdiff_t(second) * p.sequences * p.length + first_row) * Tr::conv_dim + channel;
#pragma unroll
  for (int i = 0; i < S; ++i) {
    int const t = run * S + i;
    if (t >= p.length) return;
    float value[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float h = bias[v];
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) h = fmaf(weight[k][v], x[i + k][v], h);
      value[v] = fmaf(h, tanh_fast(h), h);
    }
    *reinterpret_cast<packed<V>*>(to + at.row(t, p.length) *
                                           Tr::conv_dim) = {{pack<T>(value[0], value[1]), pack<T>(value[2], value[3])}};
  }
}

}  // namespace dm2::cuda::detail
