/// @file
/// The gradient of the streamed attention's heads.
///
/// First that of the queries, past which the keys stream, then those of keys and values, past which the queries do.
/// With P = softmax(q k^T / sqrt(d)), G = dy v^T and D = P (G - rowsum(P G)):
///     dv = P^T dy,  dq = D k / sqrt(d),  dk = D^T q / sqrt(d)
/// The forward saves nothing: a first round over the keys finds each query's statistics, from which P and D are
/// computed again wherever they are needed. Each gradient is one warp's sum, in the order of the tokens.
#pragma once

#include <dm2/cuda/attention_core/softmax.cuh>
#include <dm2/cuda/attention_core/streamed_inputs.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// What a query's weights are computed from: exp2(score - norm), with scores times log2(e); and what is subtracted from
/// its slopes.
struct alignas(8) softmax_statistics {
  float norm;  ///< log2 of the sum of exp2(score)
  float mean;  ///< sum of weight slope, slope = dy v of a key
};

/// One launch.
template <class Tr>
struct streamed_backward_arguments {
  typename Tr::element const* inputs;  ///< [B, H, 3, L, d], q, k and v
  typename Tr::element const* dy;      ///< [B L, width], 16-byte aligned
  typename Tr::element* d;             ///< as inputs: their gradients
  softmax_statistics* statistics;      ///< [B, H, L]
  int length;                          ///< L
  int blocks;                          ///< that share a head's tokens
};

/// What a block works on: some tokens of one head of one sequence, the tokens fastest.
template <class Tr>
struct streamed_backward_place {
  using T = typename Tr::element;
  T const *q, *k, *v, *dy;  ///< the head's first token
  T *dq, *dk, *dv;
  softmax_statistics* statistics;
  int first;  ///< the block's first token

  __device__ explicit streamed_backward_place(streamed_backward_arguments<Tr> const& call) {
    unsigned const task = blockIdx.x / unsigned(call.blocks), head = task % unsigned(Tr::heads);
    std::size_t const length = unsigned(call.length), one = length * Tr::head_dim, at = task * 3 * one;
    q = call.inputs + at, k = q + one, v = k + one;
    dq = call.d + at, dk = dq + one, dv = dk + one;
    dy = call.dy + task / unsigned(Tr::heads) * length * Tr::width + head * Tr::head_dim;
    statistics = call.statistics + task * length;
    first = int(blockIdx.x % unsigned(call.blocks)) * int(blockDim.x / 2);
  }
};

/// Fragments of a warp's 16 tokens in two arrays, which pass through the stages of `stream`. All threads; ends with a
/// barrier.
template <class Tr, int LeftStride, int RightStride, class Stream>
__device__ inline void load_own_rows(typename Tr::element const* left, typename Tr::element const* right, int first,
                                     Stream const& stream, std::uint32_t (&a)[1][Tr::padded / 16][4],
                                     std::uint32_t (&b)[1][Tr::padded / 16][4]) {
  int const n = int(blockDim.x / 2), own = int(threadIdx.x) / 32 * 16;
  copy_head_tokens<Tr, LeftStride>(left, stream.stage(0), first, n, stream.length);
  copy_head_tokens<Tr, RightStride>(right, stream.stage(1), first, n, stream.length);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  load_rows<Tr>(left_address<Tr>(stream.stage(0) + own * Tr::pitch), a[0]);
  load_rows<Tr>(left_address<Tr>(stream.stage(1) + own * Tr::pitch), b[0]);
  __syncthreads();
}

/// Products of 16 queries with 16 Groups keys: scores q k and slopes dy v, those of keys after the last -infinity and
/// 0.
template <class Tr, int Groups>
struct key_products {
  float score[1][2 * Groups][4] = {}, slope[1][2 * Groups][4] = {};

  /// keys and values are column addresses; `left` keys are valid, and only a single group may have fewer than it
  /// covers.
  __device__ key_products(std::uint32_t const (&q)[1][Tr::padded / 16][4],
                          std::uint32_t const (&dy)[1][Tr::padded / 16][4], std::uint32_t keys, std::uint32_t values,
                          int left) {
    multiply_rows<Tr, Groups>(q, keys, score);
    multiply_rows<Tr, Groups>(dy, values, slope);
    if (Groups == 1) mask_keys(score, left);
  }
};

/// f of every group of keys of a tile: the groups that it takes at a time, the bytes from the tile's first row, and the
/// keys that are left.
template <class Tr, class F>
__device__ inline void for_key_groups(int n, F const& f) {
  constexpr int groups = Tr::key_groups;
  constexpr std::uint32_t group = 16 * Tr::pitch * 2;
  std::uint32_t offset = 0;
  int left = n;
#pragma unroll 1
  for (; left >= 16 * groups; left -= 16 * groups, offset += groups * group)
    f.template operator()<groups>(offset, left);
#pragma unroll 1
  for (; left > 0; left -= 16, offset += group) f.template operator()<1>(offset, left);
}

/// The statistics of a lane's two rows, of the keys that it has seen: relative to its own highest score.
struct running_statistics {
  float top[2] = {-1e30f, -1e30f};  ///< finite, so that differences are numbers before the first key
  float sum[2] = {}, dot[2] = {};   ///< of exp2(score - top), and of that times slope

  template <class Tr, int Groups>
  __device__ void take(key_products<Tr, Groups> const& p, float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highest = p.score[0][0][2 * r];
#pragma unroll
      for (int n = 0; n < 2 * Groups; ++n)
        highest = fmaxf(fmaxf(highest, p.score[0][n][2 * r]), p.score[0][n][2 * r + 1]);
      float const higher = fmaxf(top[r], highest * scale), shrink = exp2_fast(top[r] - higher);
      top[r] = higher;
      sum[r] *= shrink;
      dot[r] *= shrink;
#pragma unroll
      for (int n = 0; n < 2 * Groups; ++n)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) {
          float const weight = exp2_fast(fmaf(p.score[0][n][c], scale, -higher));
          sum[r] += weight;
          dot[r] = fmaf(weight, p.slope[0][n][c], dot[r]);
        }
    }
  }
  /// Row r's, of all keys.
  __device__ softmax_statistics finish(int r) const {
    float const highest = max_over_row(top[r]);
    float const shrink = exp2_fast(top[r] - highest);
    float const total = sum_over_row(sum[r] * shrink), weighed = sum_over_row(dot[r] * shrink);
    return {highest + log2f(total), weighed / total};
  }
};

/// A warp's 16 queries: their fragments, their statistics and the sums of their gradients.
template <class Tr>
struct query_gradients {
  using T = typename Tr::element;
  std::uint32_t q[1][Tr::padded / 16][4], dy[1][Tr::padded / 16][4];
  running_statistics running;
  softmax_statistics own[2];  ///< of a lane's rows
  float dq[1][Tr::padded / 8][4] = {};

  /// The first round: takes 16 Groups keys into the statistics.
  template <int Groups>
  __device__ void see(std::uint32_t keys, std::uint32_t values, int left, float scale) {
    running.take(key_products<Tr, Groups>{q, dy, keys, values, left}, scale);
  }
  /// Between the rounds: the statistics of all keys, to memory too, for those of queries from `first` on that there
  /// are.
  __device__ void finish(softmax_statistics* to, int first, int length) {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      own[r] = running.finish(r);
      if (int const t = first + fragment::row(lane, r); fragment::leads_row(lane) && t < length) to[t] = own[r];
    }
  }
  /// The second round: adds what 16 Groups keys give; `rows` is their row address.
  template <int Groups>
  __device__ void take(std::uint32_t keys, std::uint32_t values, std::uint32_t rows, int left, float scale) {
    key_products<Tr, Groups> const p{q, dy, keys, values, left};
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      std::uint32_t d[1][4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int const n = 2 * g + c / 2, r = c % 2;
        float const low = exp2_fast(fmaf(p.score[0][n][2 * r], scale, -own[r].norm));
        float const high = exp2_fast(fmaf(p.score[0][n][2 * r + 1], scale, -own[r].norm));
        d[0][c] = pack<T>(low * (p.slope[0][n][2 * r] - own[r].mean), high * (p.slope[0][n][2 * r + 1] - own[r].mean));
      }
      add_rows<Tr>(d, rows + std::uint32_t(g * 16 * Tr::pitch * 2), dq);
    }
  }
};

/// The queries' statistics and gradients. Block: 16 queries a warp.
template <class Tr>
__global__ void __launch_bounds__(32 * Tr::queries_warps, Tr::queries_blocks)
    streamed_queries_backward_kernel(__grid_constant__ streamed_backward_arguments<Tr> const call) {
  using T = typename Tr::element;
  constexpr std::uint32_t values = Tr::tile * Tr::pitch * 2;  // from keys on
  float const root = rsqrtf(float(Tr::head_dim)), scale = log2_e * root;
  streamed_backward_place<Tr> const at{call};
  int const first = at.first + int(threadIdx.x) / 32 * 16;
  bool const busy = first < call.length;
  token_stream<Tr, Tr::head_dim, Tr::head_dim> const stream{at.k, at.v, reinterpret_cast<T*>(dynamic_shared()),
                                                            call.length};
  query_gradients<Tr> queries;
  load_own_rows<Tr, Tr::head_dim, Tr::width>(at.q, at.dy, at.first, stream, queries.q, queries.dy);
  stream.start(0);
#pragma unroll 1
  for (int i = 0; i < stream.tiles; ++i) {
    std::uint32_t const keys = column_address<Tr>(stream.next(i, 2 * stream.tiles));
    if (busy)
      for_key_groups<Tr>(stream.valid(i), [&]<int Groups>(std::uint32_t offset, int left) {
        queries.template see<Groups>(keys + offset, keys + values + offset, left, scale);
      });
  }
  queries.finish(at.statistics, first, call.length);
#pragma unroll 1
  for (int i = stream.tiles; i < 2 * stream.tiles; ++i) {
    T const* const tile = stream.next(i, 2 * stream.tiles);
    std::uint32_t const keys = column_address<Tr>(tile), rows = row_address<Tr>(tile);
    if (busy)
      for_key_groups<Tr>(stream.valid(i), [&]<int Groups>(std::uint32_t offset, int left) {
        queries.template take<Groups>(keys + offset, keys + values + offset, rows + offset, left, scale);
      });
  }
  float const roots[2]{root, root};
  if (busy) write_rows<Tr, Tr::head_dim>(at.dq, queries.dq[0], roots, first, call.length);
}

/// A warp's 16 keys: their fragments and the sums of their gradients.
template <class Tr>
struct key_gradients {
  using T = typename Tr::element;
  static constexpr int groups = Tr::key_groups;  ///< of 16 queries at a time
  std::uint32_t k[1][Tr::padded / 16][4], v[1][Tr::padded / 16][4];
  float dk[1][Tr::padded / 8][4] = {}, dv[1][Tr::padded / 8][4] = {};

  /// Takes in 16 `groups` queries, rows of q and of dy in shared memory, with their statistics. Where there is no query
  /// all of these are zeros, and add nothing.
  __device__ void take(T const* q, T const* dy, softmax_statistics const* statistics, float scale) {
    float score[1][2 * groups][4] = {}, slope[1][2 * groups][4] = {};  // rows are keys, columns queries
    multiply_rows<Tr, groups>(k, column_address<Tr>(q), score);
    multiply_rows<Tr, groups>(v, column_address<Tr>(dy), slope);
    std::uint32_t const queries = row_address<Tr>(q), slopes = row_address<Tr>(dy);
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      std::uint32_t p[1][4], d[1][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const n = 2 * g + half;
        // norm and mean of columns 2 t and 2 t + 1
        float4 const s = *reinterpret_cast<float4 const*>(statistics + 8 * n + fragment::column(int(threadIdx.x)));
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float const low = exp2_fast(fmaf(score[0][n][2 * r], scale, -s.x));
          float const high = exp2_fast(fmaf(score[0][n][2 * r + 1], scale, -s.z));
          p[0][2 * half + r] = pack<T>(low, high);
          d[0][2 * half + r] = pack<T>(low * (slope[0][n][2 * r] - s.y), high * (slope[0][n][2 * r + 1] - s.w));
        }
      }
      add_rows<Tr>(p, slopes + std::uint32_t(g * 16 * Tr::pitch * 2), dv);
      add_rows<Tr>(d, queries + std::uint32_t(g * 16 * Tr::pitch * 2), dk);
    }
  }
};

/// The gradients of keys and values. Block: 16 keys a warp.
template <class Tr>
__global__ void __launch_bounds__(32 * Tr::keys_warps, 1)
    streamed_keys_backward_kernel(__grid_constant__ streamed_backward_arguments<Tr> const call) {
  using T = typename Tr::element;
  float const root = rsqrtf(float(Tr::head_dim));
  streamed_backward_place<Tr> const at{call};
  int const first = at.first + int(threadIdx.x) / 32 * 16;
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  auto* const statistics = reinterpret_cast<softmax_statistics*>(shared + 2 * Tr::stage);  // of two tiles
  token_stream<Tr, Tr::head_dim, Tr::width> const stream{at.q, at.dy, shared, call.length};
  auto const start_statistics = [&](int i) {
    for (int t = int(threadIdx.x); t < Tr::tile; t += int(blockDim.x)) {
      bool const valid = t < stream.valid(i);
      copy_async<8>(shared_address(statistics + i % 2 * Tr::tile + t), at.statistics + (valid ? i * Tr::tile + t : 0),
                    valid);
    }
    commit_copies();
  };
  key_gradients<Tr> keys;
  load_own_rows<Tr, Tr::head_dim, Tr::head_dim>(at.k, at.v, at.first, stream, keys.k, keys.v);
  start_statistics(0);
  stream.start(0);
#pragma unroll 1
  for (int i = 0; i < stream.tiles; ++i) {
    T const* const rows = stream.next(i, stream.tiles);
    if (i + 1 < stream.tiles) start_statistics(i + 1);
    if (first >= call.length) continue;
#pragma unroll 1
    for (int t = 0; t < stream.valid(i); t += 16 * Tr::key_groups)
      keys.take(rows + t * Tr::pitch, rows + (Tr::tile + t) * Tr::pitch, statistics + i % 2 * Tr::tile + t,
                log2_e * root);
  }
  if (first >= call.length) return;
  float const roots[2]{root, root}, ones[2]{1.f, 1.f};
  write_rows<Tr, Tr::head_dim>(at.dk, keys.dk[0], roots, first, call.length);
  write_rows<Tr, Tr::head_dim>(at.dv, keys.dv[0], ones, first, call.length);
}

}  // namespace dm2::cuda::detail::attention_core
