/// @file
/// The attention kernel: keys and values convolved into shared memory, an online softmax over them in registers.
///
/// A block takes one head of one sequence, or a part of its query rows; each of its seven warps takes 16 rows at a
/// time. Keys and values are copied raw into shared memory, convolved and turned there in place, and stay for all rows.
/// A warp's scores, weights and outputs never leave its registers. More keys than fit are streamed.cuh's.
#pragma once

#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/attention_core/softmax.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// One launch.
template <class Tr>
struct arguments {
  typename Tr::element const* qkv;  ///< [B L, 3 width], 16-byte aligned
  typename Tr::element* y;          ///< [B L, width], 16-byte aligned
  run_parameters<Tr> run;
  int length;    ///< L
  int capacity;  ///< keys in shared memory, a multiple of 16
  int parts;     ///< blocks that share a head's rows
  int rounds;    ///< groups of rows that each of them takes
};

/// What a block works on.
template <class Tr>
struct place {
  using T = typename Tr::element;
  T const* qkv;      ///< the sequence's first token, the head's first channel of q
  T* y;              ///< the same of y
  int channel;       ///< that channel of qkv
  int first_tile;    ///< of 16 query rows, of the first warp in the first round
  T *keys, *values;  ///< in shared memory, first token of the chunk
  T* queries;        ///< this warp's 16 rows

  __device__ place(arguments<Tr> const& call, int block) {
    T* const shared = reinterpret_cast<T*>(dynamic_shared());
    int const part = block % call.parts, task = block / call.parts;
    std::size_t const row = std::size_t(task / Tr::heads) * std::size_t(call.length);
    channel = task % Tr::heads * Tr::head_dim;
    qkv = call.qkv + row * (3 * Tr::width) + channel;
    y = call.y + row * Tr::width + channel;
    first_tile = part * call.rounds * Tr::warps;
    int const rows = Tr::halo + call.capacity;
    keys = shared + Tr::halo * Tr::pitch;
    values = keys + rows * Tr::pitch;
    queries = values + (rows + int(threadIdx.x) / 32 * (Tr::halo + 16)) * Tr::pitch;
  }
};

/// Starts copies of raw tokens [first - halo, first + n) of `from` to before and after `to`; tokens that are not in the
/// sequence become zeros. The caller's `threads` threads share them.
template <class Tr>
__device__ inline void copy_tokens(typename Tr::element const* from, typename Tr::element* to, int first, int n,
                                   int length, int thread, int threads) {
  row_source<typename Tr::element> const tokens{from, 3 * Tr::width, length};
  copy_rows<Tr::head_dim, 1>(shared_address(to - Tr::halo * Tr::pitch), Tr::pitch * 2, tokens, first - Tr::halo,
                             n + Tr::halo, thread, threads);
}

/// Starts copies of this warp's 16 rows from `first` on.
template <class Tr>
__device__ inline void start_queries(arguments<Tr> const& call, place<Tr> const& at, int first) {
  if (first >= call.length) return;
  copy_tokens<Tr>(at.qkv, at.queries, first, 16, call.length, int(threadIdx.x) % 32, 32);
  commit_copies();
}

/// Fills keys and values with the sequence's n tokens and zeros up to a multiple of 16. All threads; ends with a
/// barrier.
template <class Tr>
__device__ inline void load_keys(arguments<Tr> const& call, place<Tr> const& at, int n) {
  int const thread = int(threadIdx.x), padded = (n + 15) / 16 * 16;
  copy_tokens<Tr>(at.qkv + Tr::width, at.keys, 0, padded, call.length, thread, Tr::threads);
  copy_tokens<Tr>(at.qkv + 2 * Tr::width, at.values, 0, padded, call.length, thread, Tr::threads);
  commit_copies();
  // Turned units of all runs come first, so that few warps spend time on turning.
  constexpr int plain = 2 * Tr::units - Tr::turned, runs = Tr::threads / (2 * Tr::units);
  constexpr int some_turned = Tr::turned > 0 ? Tr::turned : 1;
  bool const turns = thread < Tr::turned * runs;
  int const rest = thread - Tr::turned * runs;
  int const index = turns ? thread / some_turned : rest / plain;
  int const unit = turns ? thread % some_turned : Tr::turned + rest % plain;  // of the keys, then of the values
  bool const value = unit >= Tr::units;
  int const size = (n + runs - 1) / runs, start = min(index * size, n), count = index < runs ? min(size, n - start) : 0;
  typename Tr::element* const rows = (value ? at.values : at.keys) + start * Tr::pitch;
  token_run<Tr> run;
  run.prepare(call.run, at.channel + (value ? 2 : 1) * Tr::width, value ? unit - Tr::units : unit, !value, start);
  wait_copies<0>();
  __syncthreads();
  run.read_past(rows);
  __syncthreads();
  run.apply(rows, count);
  __syncthreads();
}

/// Convolves and turns this warp's rows in place, once their copies are there.
template <class Tr>
__device__ inline void prepare_queries(run_parameters<Tr> const& parameters, typename Tr::element* queries, int channel,
                                       int first) {
  constexpr int runs = 32 / Tr::units < 16 ? 32 / Tr::units : 16, size = (16 + runs - 1) / runs;
  int const lane = int(threadIdx.x) % 32, start = min(lane / Tr::units * size, 16);
  typename Tr::element* const rows = queries + start * Tr::pitch;
  token_run<Tr> run;
  run.prepare(parameters, channel, lane % Tr::units, true, first + start);
  wait_copies<0>();
  __syncwarp();
  run.read_past(rows);
  __syncwarp();
  run.apply(rows, lane < runs * Tr::units ? min(size, 16 - start) : 0);
  __syncwarp();
}

/// This warp's prepared rows as fragments of the left operand.
template <class Tr>
__device__ inline void load_queries(arguments<Tr> const& call, place<Tr> const& at, int first,
                                    std::uint32_t (&q)[Tr::padded / 16][4]) {
  prepare_queries<Tr>(call.run, at.queries, at.channel, first);
  load_rows<Tr>(left_address<Tr>(at.queries), q);
  __syncwarp();
}

/// At two blocks a multiprocessor.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::blocks) tensor_kernel(__grid_constant__ arguments<Tr> const call) {
  let_next_start();
  wait_for_previous();
  // Places are computed anew where they are needed: kept, they would take registers that a token_run needs.
  int block = int(blockIdx.x);
  auto const here = [&] {
    hide(block);
    return place<Tr>{call, block};
  };
  int first = 16 * (here().first_tile + int(threadIdx.x) / 32);
  start_queries(call, here(), first);
  load_keys(call, here(), call.length);
#pragma unroll 1
  for (int round = 0; round < call.rounds && first < call.length; ++round, first += 16 * Tr::warps) {
    std::uint32_t q[1][Tr::padded / 16][4];
    load_queries(call, here(), first, q[0]);
    if (round + 1 < call.rounds) start_queries(call, here(), first + 16 * Tr::warps);
    softmax_state<Tr, 1> state;
    attend_all(q, state, column_address<Tr>(here().keys), row_address<Tr>(here().values), call.length);
    write_outputs<Tr>(here().y, state, first, call.length);
  }
}

}  // namespace dm2::cuda::detail::attention_core
