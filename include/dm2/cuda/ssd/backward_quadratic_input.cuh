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

/// Every thread: a part of B and of C in shared memory, and to memory; half of the threads take either.
template <class Tr>
__device__ inline void convolve_states(backward_quadratic_block<Tr> const& k, int part, unsigned char* b,
                                       unsigned char* c) {
  using T = typename Tr::element;
  constexpr int half = Tr::threads / 2;
  bool const second = int(threadIdx.x) >= half;
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  auto own =
      convolution_of<Tr::part, 4>(k, {int(threadIdx.x) % half, half}, (second ? k.front().c : k.front().b) + column);
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

/// A and D of the group's heads to shared memory.
template <class Tr>
__device__ inline void keep_parameters(backward_quadratic_block<Tr> const& k) {
  for (int head = int(threadIdx.x); head < Tr::sizes::per_group; head += Tr::threads) {
    int const all = k.group() * Tr::sizes::per_group + head;
    int const own = k.own_head(all);
    k.parameters(head) = {-expf(k.front().a_log[own]), k.front().d[own]};
  }
}

/// Every thread: dt of the group's heads to memory.
template <class Tr>
__device__ inline void make_steps(backward_quadratic_block<Tr> const& k) {
  constexpr int heads = Tr::sizes::per_group, all = Tr::sizes::heads;
  scan_front const& front = k.front();
  std::size_t const first = std::size_t(k.projected_row());
  for (int i = int(threadIdx.x); i < k.p.length * heads; i += Tr::threads) {
    int const token = i / heads, head = k.group() * heads + i % heads;
    std::size_t const row = first + std::size_t(front.tokens_reversed ? k.p.length - 1 - token : token);
    float const raw = to_float(k.p.projection[row * Tr::sizes::projected + std::size_t(front.dt + head)]);
    k.p.steps[k.row(token) * all + std::size_t(head)] = softplus(raw + front.dt_bias[k.own_head(head)]);
  }
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
