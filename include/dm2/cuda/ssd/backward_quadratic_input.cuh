/// @file
/// The quadratic scan's backward: inputs from a mixer's projection.
///
/// What is copied to shared memory is the projection; x, B and C take its place there. B and C are kept in memory for
/// the block's end, and so is dt. See backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/tile/convolve_rows.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// A thread's part of the convolution of `Width` columns, V of them.
template <class Tr, int Width, int V>
using quadratic_convolution = row_convolution<typename Tr::element, Width, Tr::sizes::taps, V>;

/// The convolution of the projection's columns from `column` on, by some of the block's threads, parameters read.
template <int Width, int V, class Tr>
[[nodiscard]] __device__ inline auto convolution_of(backward_quadratic_block<Tr> const& k, copying_threads threads,
                                                    int column) {
  scan_front const& front = k.front();
  int const channel = column - front.convolved;
  int const own = front.channels_reversed ? Tr::sizes::convolved - 1 - channel : channel;
  quadratic_convolution<Tr, Width, V> part{threads.own, threads.count, k.at.rows(), k.p.length};
  part.load(front.taps + own * Tr::sizes::taps, front.bias + own, front.channels_reversed ? -1 : 1);
  return part;
}
/// That of a unit's x.
template <int V, class Tr>
[[nodiscard]] __device__ inline auto convolution_of_x(backward_quadratic_block<Tr> const& k, copying_threads threads,
                                                      int unit) {
  return convolution_of<Tr::slice, V>(k, threads, k.front().x + k.column(unit));
}

/// What a thread makes at a block's start of single numbers: dt to memory; A and D of the group's heads, and the
/// parameters of B's and C's convolution, to shared memory. It reads all of them before the copies of B and C start,
/// so that it waits once, beside those. From shared memory a warp takes a part's parameters with 20 loads of 2
/// accesses; from memory they were 20 of 8 lines.
template <class Tr>
struct first_numbers {
  using sizes = typename Tr::sizes;
  static constexpr int heads = sizes::per_group, taps = sizes::taps, state = sizes::state, threads = Tr::threads;
  static constexpr int steps = (Tr::most_tiles * 16 * heads + threads - 1) / threads;
  static constexpr int own_heads = threads % heads == 0 ? 1 : steps;  // of the thread's steps
  static constexpr int own_taps = (2 * state * taps + threads - 1) / threads;
  static_assert(heads <= threads && 2 * state <= threads);

  __device__ void load(backward_quadratic_block<Tr> const& k) {
    scan_front const& front = k.front();
    bool const reversed = front.channels_reversed;
    int own = int(threadIdx.x);
    hide(own);
    int const first_head = reversed ? sizes::heads - 1 - k.group() * heads : k.group() * heads;
    load_steps(k, front, first_head);
    int const sign = reversed ? -1 : 1, b = front.b - front.convolved + k.group() * state, c = b + front.c - front.b;
    int const end = reversed ? sizes::convolved - 1 : 0;
#pragma unroll
    for (int j = 0; j < own_taps; ++j) {
      int const i = own + j * threads, channel = (i < state * taps ? b : c) + i / taps % state;
      if (i < 2 * state * taps) tap[j] = front.taps[(end + sign * channel) * taps + i % taps];
    }
    if (own < 2 * state) bias = front.bias[end + sign * ((own < state ? b : c) + own % state)];
    if (own < heads) a_log = front.a_log[first_head + sign * own], d = front.d[first_head + sign * own];
  }

  __device__ void keep(backward_quadratic_block<Tr> const& k) const {
    int own = int(threadIdx.x);
    hide(own);
    float* const to = reinterpret_cast<float*>(k.shared);  // [B and C, taps and bias, channels]
#pragma unroll
    for (int j = 0; j < own_taps; ++j) {
      int const i = own + j * threads, half = i < state * taps ? 0 : (taps + 1) * state;
      if (i < 2 * state * taps) to[half + i % taps * state + i / taps % state] = 0.5f * tap[j];
    }
    if (own < 2 * state) to[(own < state ? taps : 2 * taps + 1) * state + own % state] = 0.5f * bias;
    if (own < heads) k.parameters(own) = {-expf(a_log), d};
    float* const made = k.p.steps + k.row(0) * sizes::heads + k.group() * heads;
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      int const i = own + j * threads, token = i / heads;
      if (token >= k.p.length) break;
      made[token * sizes::heads + i % heads] = softplus(to_float(raw[j]) + dt_bias[j % own_heads]);
    }
  }

 private:
  __device__ void load_steps(backward_quadratic_block<Tr> const& k, scan_front const& front, int first_head) {
    bool const turned = front.tokens_reversed;
    int own = int(threadIdx.x);
    hide(own);
    int const stride = turned ? -sizes::projected : sizes::projected;
    auto const* const from = k.p.projection + (k.projected_row() + (turned ? k.p.length - 1 : 0)) * sizes::projected +
                             (front.dt + k.group() * heads);
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      int const i = own + j * threads, token = i / heads;
      if (token < k.p.length) raw[j] = from[token * stride + i % heads];
    }
#pragma unroll
    for (int j = 0; j < own_heads; ++j) {
      int const head = (own + j * threads) % heads;
      dt_bias[j] = front.dt_bias[first_head + (front.channels_reversed ? -head : head)];
    }
  }

  typename Tr::element raw[steps];
  float dt_bias[own_heads], tap[own_taps], bias, a_log, d;
};

/// Every thread: a part of B and of C in shared memory, and to memory; half of the threads take either.
template <class Tr>
__device__ inline void convolve_states(backward_quadratic_block<Tr> const& k, int part, unsigned char* b,
                                       unsigned char* c) {
  using T = typename Tr::element;
  constexpr int half = Tr::threads / 2;
  int thread = int(threadIdx.x);
  hide(thread);
  bool const second = thread >= half;
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  constexpr int state = Tr::sizes::state;
  quadratic_convolution<Tr, Tr::part, 4> own{thread % half, half, k.at.rows(), k.p.length};
  own.load_halved(
      reinterpret_cast<float const*>(k.shared) + int(second) * (Tr::sizes::taps + 1) * state + part * Tr::part, state);
  int const stride = second ? k.p.dc_stride : k.p.db_stride;
  T* const to = (second ? k.p.dc : k.p.db) + k.row(0) * std::size_t(stride) + column;
  own.run(
      second ? c : b, [] { __syncthreads(); },
      [&](int token, int channel, float const(&v)[4]) {
        __stcg(reinterpret_cast<uint2*>(to + (token * stride + channel)),  // never two stores of four bytes
               uint2{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])});
      });
  __syncthreads();
}

/// Every thread: x of the first unit, whose copies it has started. A barrier must follow before others read.
template <class Tr>
__device__ inline void convolve_first(backward_quadratic_block<Tr> const& k) {
  auto own = convolution_of_x<2>(k, all_threads<Tr>(), 0);
  wait_copies<0>();
  __syncthreads();
  own.run(
      k.x(0), [] { __syncthreads(); }, [](int, int, auto const&) {});
}

}  // namespace dm2::cuda::detail::ssd
