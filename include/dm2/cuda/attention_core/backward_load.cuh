/// @file
/// The way of q, k, v and dy into the attention's backward kernel.
#pragma once

#include <dm2/cuda/attention_core/backward_layout.cuh>
#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/attention_core/tensor.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Fills q, k, v, convolved and turned, and dy; tokens after the last are zeros. All threads; ends with a barrier.
template <class Tr>
__device__ inline void load_inputs(attention_backward_call<Tr> const& call, typename Tr::element* shared) {
  attention_backward_place<Tr> const at{call.length};
  int const thread = int(threadIdx.x);
  auto const* const from = call.qkv + at.row * (3 * Tr::width) + at.channel;
  copy_tokens<Tr>(from, shared + Tr::queries, 0, Tr::tokens, call.length, thread, Tr::threads);
  copy_tokens<Tr>(from + Tr::width, shared + Tr::keys, 0, Tr::tokens, call.length, thread, Tr::threads);
  copy_tokens<Tr>(from + 2 * Tr::width, shared + Tr::values, 0, Tr::tokens, call.length, thread, Tr::threads);
  commit_copies();
  auto const* const dy = call.dy + at.row * Tr::width + at.channel;
#pragma unroll 1
  for (int i = thread; i < Tr::tokens * Tr::units; i += Tr::threads) {
    int const t = i / Tr::units, piece = i % Tr::units;
    bool const valid = t < call.length;
    copy_async(shared_address(shared + Tr::slopes + t * Tr::pitch + 8 * piece),
               dy + (valid ? std::ptrdiff_t{t} * Tr::width + 8 * piece : 0), valid);
  }
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

}  // namespace dm2::cuda::detail
