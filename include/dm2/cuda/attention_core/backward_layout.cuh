/// @file
/// Sizes, shared memory and loading of the attention's backward kernel.
#pragma once

#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/attention_core/tensor.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// Sizes of the backward kernel: a block takes one head of a sequence of up to 16 Groups tokens, each warp 16 queries,
/// then 16 keys. Shared memory holds, one after the other, q, k, dy, v [tokens, head_dim] and weights [tokens, 16
/// near]; the weights of the `far` last groups of keys stay in registers until v is not needed any more, and then take
/// its place.
template <attention_shape A, class T, int Groups>
struct backward_traits : traits<A, T> {
  using base = traits<A, T>;
  static constexpr int groups = Groups, tokens = 16 * Groups, warps = Groups, threads = 32 * Groups;
  static constexpr int most = most_shared_bytes / 2;  ///< elements
  static constexpr int rows = tokens + base::halo;
  static constexpr int arrays = (3 * rows + tokens) * base::pitch;
  static constexpr int near = arrays + tokens * (tokens + 8) <= most || Groups < 8 ? Groups : 8;
  static constexpr int far = Groups - near;
  static constexpr int near_pitch = 16 * near + 8, far_pitch = 16 * far + 8;
  static constexpr std::size_t bytes = 2 * (std::size_t{arrays} + std::size_t{tokens} * near_pitch);
  static constexpr bool fits =
      bytes <= 2 * std::size_t{most} && 16 * far <= base::head_dim && threads >= 6 * base::units;

  // Where they start, in elements; token 0 of q, k, v has halo tokens before it.
  static constexpr int queries = base::halo * base::pitch, keys = queries + rows * base::pitch;
  static constexpr int slopes = 2 * rows * base::pitch, free = slopes + tokens * base::pitch;
  static constexpr int values = free + base::halo * base::pitch, weights = free + rows * base::pitch;

  /// Runs of tokens that a convolution's way back is split in, 4 channels a thread; their sums lie from `free` on.
  static constexpr int sums = base::taps > 0 ? (base::taps + 1) * 3 * base::head_dim : 0;  ///< of a run
  static constexpr int room = rows * base::pitch + tokens * near_pitch;
  static constexpr int runs = std::min(threads / (6 * base::units), sums > 0 ? room / (2 * sums) : threads);
};

/// One launch.
template <class Tr>
struct backward_arguments {
  typename Tr::element const* qkv;  ///< [B L, 3 width], 16-byte aligned, as are the others
  typename Tr::element const* dy;   ///< [B L, width]
  typename Tr::element* dqkv;       ///< [B L, 3 width]
  float* sums;                      ///< [B, taps + 1, 3 width], of the taps' gradients and the bias's
  run_parameters<Tr> run;
  int length;  ///< L
};

/// v, of which the compiler does not know that it has seen it before: what is computed from it, or read from there, is
/// not kept in registers from one use to the next, and what it is computed from not beyond here.
__device__ inline int fresh(int v) {
  hide(v);
  return v;
}
__device__ inline int fresh_thread() { return fresh(int(threadIdx.x)); }
__device__ inline std::uint32_t fresh(std::uint32_t v) { return std::uint32_t(fresh(int(v))); }

/// The block's head and sequence.
template <class Tr>
struct backward_place {
  int channel;       ///< the head's first, of q
  std::size_t row;   ///< the sequence's first
  std::size_t part;  ///< the sequence's number

  __device__ explicit backward_place(int length) {
    unsigned const block = unsigned(fresh(int(blockIdx.x)));
    channel = int(block % unsigned(Tr::heads)) * Tr::head_dim;
    part = block / unsigned(Tr::heads);
    row = part * std::size_t(length);
  }
};

/// Fills q, k, v, convolved and turned, and dy; tokens after the last are zeros. All threads; ends with a barrier.
template <class Tr>
__device__ inline void load_inputs(backward_arguments<Tr> const& call, typename Tr::element* shared) {
  backward_place<Tr> const at{call.length};
  int const thread = int(threadIdx.x);
  auto const* const from = call.qkv + at.row * (3 * Tr::width) + at.channel;
  copy_tokens<Tr>(from, shared + Tr::queries, 0, Tr::tokens, call.length, thread, Tr::threads);
  copy_tokens<Tr>(from + Tr::width, shared + Tr::keys, 0, Tr::tokens, call.length, thread, Tr::threads);
  copy_tokens<Tr>(from + 2 * Tr::width, shared + Tr::values, 0, Tr::tokens, call.length, thread, Tr::threads);
  commit_copies();
  auto const* const dy = call.dy + at.row * Tr::width + at.channel;
  copy_rows<Tr::units * 8, 1>(shared_address(shared + Tr::slopes), Tr::pitch * 2,
                              row_source<typename Tr::element>{dy, Tr::width, call.length}, 0, Tr::tokens, thread,
                              Tr::threads);
  commit_copies();
  // Turned units of all runs come first, so that few warps spend time on turning.
  constexpr int turned = 2 * Tr::turned, plain = 3 * Tr::units - turned, runs = Tr::threads / (3 * Tr::units);
  constexpr int some_turned = turned > 0 ? turned : 1, half = Tr::turned > 0 ? Tr::turned : 1;
  constexpr int side = Tr::units - Tr::turned, some_side = side > 0 ? side : 1;  // of q, and of k, not turned
  bool const turns = thread < turned * runs;
  int const rest = thread - turned * runs, index = turns ? thread / some_turned : rest / plain;
  int const u = turns ? thread % some_turned : rest % plain;
  int const which = turns ? u / half : u < 2 * side ? u / some_side : 2;
  int const unit = turns ? u % half : u < 2 * side ? Tr::turned + u % some_side : u - 2 * side;
  int const size = (call.length + runs - 1) / runs, start = min(index * size, call.length);
  int const count = index < runs ? min(size, call.length - start) : 0;
  auto* const rows = shared + (which == 0 ? Tr::queries : which == 1 ? Tr::keys : Tr::values) + start * Tr::pitch;
  token_run<Tr> run;
  run.prepare(call.run, at.channel + which * Tr::width, unit, which < 2, start);
  wait_copies<1>();  // dy may come later
  __syncthreads();
  run.read_past(rows);
  __syncthreads();
  run.apply(rows, count);
  wait_copies<0>();
  __syncthreads();
}

}  // namespace dm2::cuda::detail::attention_core
