/// @file
/// What the backward of the mixer computes again before its scan: convolution, SiLU and steps of both directions.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/mixer_core/general.cuh>
#include <dm2/cuda/tile/own_ring.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail::mixer_core {

/// Sizes that the kernels around the scan's backward share. V: neighbouring channels that a thread takes.
template <mixer_shape M, int V>
struct backward_traits {
  using first = direction_traits<M, false>;
  using second = direction_traits<M, true>;
  template <bool Second>
  using direction = direction_traits<M, Second>;
  static constexpr int heads = first::heads, inner = first::inner, states = first::states, taps = first::taps;
  static constexpr int convolved = first::convolved, projected = first::projected;
  static constexpr int groups = first::groups, group = first::group;
  static constexpr bool reverse_channels = second::reverse_channels, reverse_tokens = second::reverse_tokens;
  static constexpr int vector = V;
  static constexpr int threads = 128;  ///< of the kernels that walk along tokens
  static constexpr int steps = 4;      ///< tokens whose loads such a thread has under way
  static constexpr int run = 33;       ///< tokens of a thread that only convolves: some more are read
};

/// Where the scans' backward writes dx, dB and dC.
enum class gradient_place {
  apart,        ///< beside its inputs
  over_inputs,  ///< over x, B and C
  over_dy       ///< dx over dy, dB and dC over B and C: x is never in memory
};

/// What the scans of both directions read, in each direction's order of tokens and channels, and what their backward
/// writes. n rows of the first direction come before n of the second. For Tiny in bfloat16 6.8 KB a token apart, 4.2
/// over the inputs, 2.7 over dy.
template <mixer_shape M, class T>
struct backward_arrays {
  scan_arrays<T> in;
  T* y;  ///< [2 n, d_inner]: y, then dy
  T *dx, *db, *dc;
  float* ddt;

  backward_arrays(arena& s, std::size_t n, gradient_place place) {
    constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
    bool const over_dy = place == gradient_place::over_dy;
    in.x = over_dy ? nullptr : s.take<T>(2 * n * inner);
    in.b = s.take<T>(2 * n * states), in.c = s.take<T>(2 * n * states);
    in.dt = s.take<float>(2 * n * M.heads);
    in.a = s.take<float>(2 * M.heads), in.d = s.take<float>(2 * M.heads);
    y = s.take<T>(2 * n * inner);
    dx = over_dy ? y : in.x, db = in.b, dc = in.c;
    if (place == gradient_place::apart)
      dx = s.take<T>(2 * n * inner), db = s.take<T>(2 * n * states), dc = s.take<T>(2 * n * states);
    ddt = s.take<float>(2 * n * M.heads);
  }
};

/// The second direction's rows.
template <class Tr, class T>
__host__ __device__ inline scan_arrays<T> second_rows(scan_arrays<T> const& all, std::size_t n) {
  return {all.x + n * Tr::inner,  all.b + n * Tr::states, all.c + n * Tr::states,
          all.dt + n * Tr::heads, all.a + Tr::heads,      all.d + Tr::heads};
}

/// Both directions' parameters.
struct direction_pair {
  direction_parameters direction[2];
};

/// Where channel c of a direction's convolution lies in x, B or C, and how far two tokens are apart there.
template <class T>
struct convolved_slice {
  T* data;
  int stride;
};
template <class Dir, class T>
__device__ inline convolved_slice<T> slice_of(T* x, T* b, T* c, int channel) {
  if (channel >= Dir::x && channel < Dir::x + Dir::inner) return {x + (channel - Dir::x), Dir::inner};
  if (channel >= Dir::b && channel < Dir::b + Dir::states) return {b + (channel - Dir::b), Dir::states};
  return {c + (channel - Dir::c), Dir::states};
}

/// Taps and bias of V channels from `channel` on, in the direction's order of channels.
template <class Dir, int V>
__device__ inline void load_taps(direction_parameters const& p, int channel, float (&taps)[Dir::taps][V],
                                 float (&bias)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    int const own = arranged<Dir>(channel + v, Dir::convolved);
#pragma unroll
    for (int k = 0; k < Dir::taps; ++k) taps[k][v] = p.conv[own * Dir::taps + k];
    bias[v] = p.conv_bias[own];
  }
}

/// Stages of loads that a thread has ahead, of Tr::steps tokens each.
template <class Tr, class T>
using inputs_ring = own_ring<T, Tr::vector, Tr::steps, 4>;

/// SiLU of the convolution of V channels for tokens [t0, t1) of the sequence whose first row is `first`.
template <class Tr, class Dir, class T>
__device__ inline void convolve_run(T const* zxbcdt, direction_parameters const& p, scan_arrays<T> const& to,
                                    int channel, std::size_t first, int t0, int t1, int length, unsigned char* own) {
  constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, whole = (K - 1 + U - 1) / U * U;
  constexpr std::ptrdiff_t down = (Dir::reverse_tokens ? -1 : 1) * Tr::projected;
  using numbers = vector_numbers<T, V>;
  auto const out = slice_of<Dir>(to.x, to.b, to.c, channel);
  T const* const from =
      zxbcdt + (first + std::size_t(source_token<Dir>(0, length))) * Tr::projected + Dir::conv + channel;
  inputs_ring<Tr, T> ring{own};
  auto const start = [&](int t) {
#pragma unroll
    for (int u = 0; u < U; ++u) ring.start(u, from + (t + u) * down, t + u >= 0 && t + u < t1);
    ring.commit();
  };
#pragma unroll
  for (int s = 0; s < 3; ++s) start(t0 - whole + s * U);
  float taps[K][V], bias[V], raw[K - 1 + U][V];
  load_taps<Dir>(p, channel, taps, bias);
#pragma unroll 1
  for (int t = t0 - whole; t < t1; t += U) {  // first tokens that only come in
    ring.wait();
    start(t + 3 * U);
#pragma unroll
    for (int u = 0; u < U; ++u) ring.take(u).get(raw[K - 1 + u]);
    ring.release();
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (t < t0) break;
      float sum[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[v] = bias[v];
#pragma unroll
        for (int k = 0; k < K; ++k) sum[v] = fmaf(taps[k][v], raw[u + k][v], sum[v]);
        sum[v] = is_half<T> ? silu_fast(sum[v]) : silu(sum[v]);
      }
      if (t + u < t1) numbers::store(out.data + (first + std::size_t(t + u)) * std::size_t(out.stride), sum);
    }
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) raw[k][v] = raw[U + k][v];
  }
}

/// Thread: one run of Tr::run tokens of one sequence, of one piece of work: V channels of the first direction, of the
/// second, a head's steps of the first, of the second. A run's pieces are neighbours.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    inputs_kernel(T const* zxbcdt, direction_pair p, scan_arrays<T> to, std::size_t n, int length, int runs) {
  using first_direction = typename Tr::first;
  using second_direction = typename Tr::second;
  constexpr int pieces = Tr::convolved / Tr::vector, items = 2 * (pieces + Tr::heads);
  alignas(16) __shared__ unsigned char rings[Tr::threads / 32][inputs_ring<Tr, T>::bytes];
  unsigned char* const ring = rings[threadIdx.x / 32];
  std::size_t const thread = std::size_t{blockIdx.x} * Tr::threads + threadIdx.x, unit = thread / items;
  int const item = int(thread % items), run = int(unit % std::size_t(runs));
  int const t0 = run * Tr::run, t1 = min(t0 + Tr::run, length);
  std::size_t const first = unit / std::size_t(runs) * std::size_t(length);
  if (first >= n) return;
  scan_arrays<T> const second = second_rows<Tr>(to, n);
  if (item < pieces)
    convolve_run<Tr, first_direction>(zxbcdt, p.direction[0], to, item * Tr::vector, first, t0, t1, length, ring);
  else if (item < 2 * pieces)
    convolve_run<Tr, second_direction>(zxbcdt, p.direction[1], second, (item - pieces) * Tr::vector, first, t0, t1,
                                       length, ring);
  else if (item < 2 * pieces + Tr::heads)
    write_steps<first_direction>(zxbcdt, p.direction[0], to, item - 2 * pieces, first, t0, t1, length);
  else
    write_steps<second_direction>(zxbcdt, p.direction[1], second, item - 2 * pieces - Tr::heads, first, t0, t1, length);
}

}  // namespace dm2::cuda::detail::mixer_core
