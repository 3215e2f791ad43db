/// @file
/// The attention kernel: keys and values convolved into shared memory, an online softmax over them in registers.
///
/// A block takes one head of one sequence, or a part of its query rows; each of its seven warps takes 16 rows at a time.
/// Keys and values are copied raw into shared memory, convolved and turned there in place, and stay for all rows where
/// they fit; else they come by in chunks. A warp's scores, weights and outputs never leave its registers: the
/// accumulators of q k^T are, rounded, the left operand of the product with v.
#pragma once

#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

// Attention's online softmax over keys and values in shared memory, 16 query rows a warp, all in registers.

/// 16 query rows of a warp: lane l holds rows l / 4 and l / 4 + 8.
template <class Tr>
struct softmax_state {
  float out[Tr::head_dim / 8][4] = {};    ///< sum of exp2(score - top) v
  float top[2] = {-INFINITY, -INFINITY};  ///< what scores are taken relative to, times log2(e)
  float sum[2] = {0.f, 0.f};              ///< this lane's part of the sum of exp2(score - top)

  /// Makes `top` fit scores up to `highest`. A lower top than the highest score is as exact, as long as no weight
  /// overflows: output and sum are only rescaled where a score exceeds it by a factor of 2^8.
  __device__ void raise(float const (&highest)[2]) {
    if (!__any_sync(0xffffffffu, highest[0] > top[0] + 8.f || highest[1] > top[1] + 8.f)) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float const higher = fmaxf(top[r], highest[r]), factor = exp2_fast(top[r] - higher);
      top[r] = higher;
      sum[r] *= factor;
#pragma unroll
      for (int i = 0; i < Tr::head_dim / 8; ++i) {
        out[i][2 * r] *= factor;
        out[i][2 * r + 1] *= factor;
      }
    }
  }
};

/// Takes in 16 Groups keys; keys and values are the lane's addresses of the first of them. `left` keys are valid; only
/// a single group may have fewer than it covers.
template <class Tr, int Groups>
__device__ inline void attend(std::uint32_t const (&q)[Tr::head_dim / 16][4], softmax_state<Tr>& state,
                              std::uint32_t keys, std::uint32_t values, int left) {
  using T = typename Tr::element;
  constexpr std::uint32_t group = 16 * Tr::pitch * 2;
  constexpr int steps = Tr::head_dim / 16;
  float const scale = log2_e * rsqrtf(float(Tr::head_dim));
  float s[2 * Groups][4] = {};
#pragma unroll
  for (int k = 0; k < steps; ++k)
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      std::uint32_t b[4];
      load_matrix(b, keys + g * group + 32 * k);
      mma<T>(s[2 * g], q[k], b[0], b[1]);
      mma<T>(s[2 * g + 1], q[k], b[2], b[3]);
    }
  float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < 2 * Groups; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (Groups == 1 && 8 * n + int(threadIdx.x) % 4 * 2 + i % 2 >= left) s[n][i] = -INFINITY;
      highest[i / 2] = fmaxf(highest[i / 2], s[n][i]);
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 1));
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 2)) * scale;
  }
  state.raise(highest);
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    std::uint32_t weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const n = 2 * g + i / 2, r = i % 2;
      float const low = exp2_fast(fmaf(s[n][2 * r], scale, -state.top[r]));
      float const high = exp2_fast(fmaf(s[n][2 * r + 1], scale, -state.top[r]));
      state.sum[r] += low + high;
      weights[i] = pack<T>(low, high);
    }
#pragma unroll
    for (int c = 0; c < steps; ++c) {
      std::uint32_t b[4];
      load_matrix_transposed(b, values + g * group + 32 * c);
      mma<T>(state.out[2 * c], weights, b[0], b[1]);
      mma<T>(state.out[2 * c + 1], weights, b[2], b[3]);
    }
  }
}

/// One launch.
template <class Tr>
struct attention_call {
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
struct attention_place {
  using T = typename Tr::element;
  T const* qkv;      ///< the sequence's first token, the head's first channel of q
  T* y;              ///< the same of y
  int channel;       ///< that channel of qkv
  int first_tile;    ///< of 16 query rows, of the first warp in the first round
  T *keys, *values;  ///< in shared memory, first token of the chunk
  T* queries;        ///< this warp's 16 rows

  __device__ attention_place(attention_call<Tr> const& call, int block) {
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
  constexpr int pieces = Tr::head_dim / 8;
#pragma unroll 1
  for (int i = thread; i < (n + Tr::halo) * pieces; i += threads) {
    int const row = i / pieces - Tr::halo, piece = i % pieces, token = first + row;
    bool const valid = token >= 0 && token < length;
    copy_async(shared_address(to + row * Tr::pitch + 8 * piece),
               from + (valid ? std::ptrdiff_t(token) * (3 * Tr::width) + 8 * piece : 0), valid);
  }
}

/// Starts copies of this warp's 16 rows from `first` on.
template <class Tr>
__device__ inline void start_queries(attention_call<Tr> const& call, attention_place<Tr> const& at, int first) {
  if (first >= call.length) return;
  copy_tokens<Tr>(at.qkv, at.queries, first, 16, call.length, int(threadIdx.x) % 32, 32);
  commit_copies();
}

/// Fills keys and values with tokens [first, first + n) and zeros up to a multiple of 16. All threads; ends with a
/// barrier.
template <class Tr>
__device__ inline void load_keys(attention_call<Tr> const& call, attention_place<Tr> const& at, int first, int n) {
  int const thread = int(threadIdx.x), padded = (n + 15) / 16 * 16;
  copy_tokens<Tr>(at.qkv + Tr::width, at.keys, first, padded, call.length, thread, Tr::threads);
  copy_tokens<Tr>(at.qkv + 2 * Tr::width, at.values, first, padded, call.length, thread, Tr::threads);
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
  run.prepare(call.run, at.channel + (value ? 2 : 1) * Tr::width, value ? unit - Tr::units : unit, !value,
              first + start);
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
__device__ inline void load_queries(attention_call<Tr> const& call, attention_place<Tr> const& at, int first,
                                    std::uint32_t (&q)[Tr::head_dim / 16][4]) {
  prepare_queries<Tr>(call.run, at.queries, at.channel, first);
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t const address = shared_address(at.queries + lane % 16 * Tr::pitch + lane / 16 * 8);
#pragma unroll
  for (int k = 0; k < Tr::head_dim / 16; ++k) load_matrix(q[k], address + 32 * k);
  __syncwarp();
}

/// Takes in the n keys in shared memory.
template <class Tr>
__device__ inline void attend_all(attention_place<Tr> const& at, std::uint32_t const (&q)[Tr::head_dim / 16][4],
                                  softmax_state<Tr>& state, int n) {
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t keys = shared_address(at.keys + (lane / 16 * 8 + lane % 8) * Tr::pitch + lane / 8 % 2 * 8);
  std::uint32_t values = shared_address(at.values + lane % 16 * Tr::pitch + lane / 16 * 8);
  constexpr std::uint32_t group = 16 * Tr::pitch * 2;
  int left = n;
#pragma unroll 1
  for (; left >= 16 * Tr::key_groups; left -= 16 * Tr::key_groups) {
    attend<Tr, Tr::key_groups>(q, state, keys, values, left);
    keys += Tr::key_groups * group;
    values += Tr::key_groups * group;
  }
#pragma unroll 1
  for (; left > 0; left -= 16) {
    attend<Tr, 1>(q, state, keys, values, left);
    keys += group;
    values += group;
  }
}

/// The lane whose bit of t is 0 gives its b for the a of the lane Bit away, where it is 1.
template <int Bit>
__device__ inline void exchange_tiles(std::uint32_t& a, std::uint32_t& b, int t) {
  bool const upper = (t & Bit) != 0;
  std::uint32_t const got = __shfl_xor_sync(0xffffffffu, upper ? a : b, Bit);
  a = upper ? got : a;
  b = upper ? b : got;
}

/// Writes the 16 rows from `first` on, those that there are.
template <class Tr>
__device__ inline void write_rows(attention_call<Tr> const& call, attention_place<Tr> const& at,
                                  softmax_state<Tr>& state, int first) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float const scale = 1.f / sum;
    int const row = first + lane / 4 + 8 * r;
    T* const to = at.y + std::ptrdiff_t(row) * Tr::width;
    constexpr int tiles = Tr::head_dim / 8;
#pragma unroll
    for (int n = 0; n < tiles / 4 * 4; n += 4) {
      // Lane t of four holds channels 2 t, 2 t + 1 of tiles n to n + 3; after two exchanges tile n + t whole.
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = pack<T>(state.out[n + i][2 * r] * scale, state.out[n + i][2 * r + 1] * scale);
      exchange_tiles<1>(v[0], v[1], t);
      exchange_tiles<1>(v[2], v[3], t);
      exchange_tiles<2>(v[0], v[2], t);
      exchange_tiles<2>(v[1], v[3], t);
      if (row < call.length) *reinterpret_cast<uint4*>(to + 8 * (n + t)) = make_uint4(v[0], v[1], v[2], v[3]);
    }
#pragma unroll
    for (int n = tiles / 4 * 4; n < tiles; ++n)
      if (row < call.length)
        *reinterpret_cast<std::uint32_t*>(to + 8 * n + 2 * t) =
            pack<T>(state.out[n][2 * r] * scale, state.out[n][2 * r + 1] * scale);
  }
}

/// Resident: all keys fit and are loaded once, at two blocks a multiprocessor; else chunk after chunk a round.
template <class Tr, bool Resident>
__global__ void __launch_bounds__(Tr::threads, Resident ? Tr::blocks : 1)
    attention_core_kernel(__grid_constant__ attention_call<Tr> const call) {
  let_next_start();
  wait_for_previous();
  // Places are computed anew where they are needed: kept, they would take registers that a token_run needs.
  int block = int(blockIdx.x);
  auto const place = [&] {
    hide(block);
    return attention_place<Tr>{call, block};
  };
  int first = 16 * (place().first_tile + int(threadIdx.x) / 32);
  start_queries(call, place(), first);
  if constexpr (Resident) load_keys(call, place(), 0, call.length);
#pragma unroll 1
  for (int round = 0; round < call.rounds; ++round, first += 16 * Tr::warps) {
    if constexpr (Resident) {
      if (first >= call.length) break;
      std::uint32_t q[Tr::head_dim / 16][4];
      load_queries(call, place(), first, q);
      if (round + 1 < call.rounds) start_queries(call, place(), first + 16 * Tr::warps);
      softmax_state<Tr> state;
      attend_all(place(), q, state, call.length);
      write_rows(call, place(), state, first);
    } else {
      // Warps without rows help with the keys.
      attention_place<Tr> const at = place();
      std::uint32_t q[Tr::head_dim / 16][4] = {};
      softmax_state<Tr> state;
      if (first < call.length) load_queries(call, at, first, q);
#pragma unroll 1
      for (int key = 0; key < call.length; key += call.capacity) {
        int const n = min(call.capacity, call.length - key);
        __syncthreads();
        load_keys(call, at, key, n);
        if (first < call.length) attend_all(at, q, state, n);
      }
      if (first < call.length) write_rows(call, at, state, first);
    }
  }
}

}  // namespace dm2::cuda::detail
