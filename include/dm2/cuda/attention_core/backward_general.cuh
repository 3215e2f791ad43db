/// @file
/// Attention's backward, composed: for any shape, length and precision.
///
/// Kernels: what the softmax needs to be computed again, then the gradients of the queries, then those of keys and
/// values, tile by tile.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/general.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cmath>
#include <cstddef>

namespace dm2::cuda::detail::attention_core {

/// What a query's weights are computed from: exp((score - most) / sqrt(d)) share, whose gradient is that times
/// slope - mean.
struct query_statistics {
  float most;   ///< its highest score, in the products' own units
  float share;  ///< 1 / sum of exp((score - most) / sqrt(d))
  float mean;   ///< sum of weight slope, slope = dy v of a key
};

/// Tokens of one head: the first one's first channel, and the numbers from token to token.
template <class T>
struct head_tokens {
  T* data;
  int stride;
};

/// What a block of the kernels below works on: `tile` tokens of one head of one sequence, the tile fastest.
template <class Tr, class T>
struct head_backward_place {
  int tile, head;
  std::size_t first;  ///< the sequence's first row
  head_tokens<T const> q, k, v, dy;

  __device__ head_backward_place(T const* qkv, T const* gradient, int length, int tiles)
      : tile{int(blockIdx.x % unsigned(tiles)) * Tr::tile},
        head{int(blockIdx.x / unsigned(tiles) % Tr::heads)},
        first{std::size_t{blockIdx.x / unsigned(tiles) / Tr::heads} * std::size_t(length)},
        q{qkv + first * (3 * Tr::width) + head * Tr::head_dim, 3 * Tr::width},
        k{q.data + Tr::width, q.stride},
        v{k.data + Tr::width, q.stride},
        dy{gradient + first * Tr::width + head * Tr::head_dim, Tr::width} {}
};

/// slab[i][c] = token first + i, channel c0 + c; zeros outside.
template <class Tr, class T>
__device__ inline void load_tokens(head_tokens<T const> from, int first, int length, int c0,
                                   float (&slab)[Tr::tile][Tr::depth + 1]) {
  for (int at = int(threadIdx.x); at < Tr::tile * Tr::depth; at += Tr::threads) {
    int const i = at / Tr::depth, c = at % Tr::depth;
    bool const inside = first + i < length && c0 + c < Tr::head_dim;
    slab[i][c] = inside ? to_float(from.data[std::ptrdiff_t{first + i} * from.stride + c0 + c]) : 0.f;
  }
}

/// What every kernel below passes through shared memory.
template <class Tr>
struct slabs {
  float a[Tr::tile][Tr::depth + 1], b[Tr::tile][Tr::depth + 1];
};

/// out[i][j] = a[row + ty 4 + i] . b[column + tx + 16 j], over a head's channels.
template <class Tr, class T>
__device__ inline void tile_product(head_tokens<T const> a, int row, head_tokens<T const> b, int column, int length,
                                    int ty, int tx, slabs<Tr>& s, float (&out)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) out[i][j] = 0.f;
  for (int slab = 0; slab < Tr::slabs; ++slab) {
    __syncthreads();
    load_tokens<Tr>(a, row, length, slab * Tr::depth, s.a);
    load_tokens<Tr>(b, column, length, slab * Tr::depth, s.b);
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < Tr::depth; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][j] = fmaf(s.a[ty * 4 + i][c], s.b[tx + 16 * j][c], out[i][j]);
  }
}

/// out[i][2 n + j] += sum over k of factors[ty 4 + i][k] rows[first + k], channel 32 n + tx + 16 j. Begins and ends
/// with a barrier.
template <class Tr, class T>
__device__ inline void add_product(float const (&factors)[Tr::tile][Tr::tile + 1], head_tokens<T const> rows, int first,
                                   int length, int ty, int tx, float (&slab)[Tr::tile][Tr::depth + 1],
                                   float (&out)[4][2 * Tr::slabs]) {
#pragma unroll
  for (int n = 0; n < Tr::slabs; ++n) {
    __syncthreads();
    load_tokens<Tr>(rows, first, length, n * Tr::depth, slab);
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < Tr::tile; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          out[i][2 * n + j] = fmaf(factors[ty * 4 + i][k], slab[k][tx + 16 * j], out[i][2 * n + j]);
  }
  __syncthreads();
}

/// Writes tokens tile + ty 4 + i of one head, those that there are, times `scale`.
template <class Tr, class T>
__device__ inline void write_tokens(float const (&from)[4][2 * Tr::slabs], float scale, head_tokens<T> to, int tile,
                                    int length, int ty, int tx) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int c = 0; c < 2 * Tr::slabs; ++c) {
      int const t = tile + ty * 4 + i, channel = c / 2 * Tr::depth + tx + 16 * (c % 2);
      if (t < length && channel < Tr::head_dim)
        to.data[std::ptrdiff_t{t} * to.stride + channel] = from_float<T>(from[i][c] * scale);
    }
}

/// out [count, heads, length]: the statistics of every query; `scale` is log2(e) / sqrt(d), here and below.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    statistics_kernel(T const* qkv, T const* dy, query_statistics* out, int length, int tiles, float scale) {
  __shared__ slabs<Tr> s;
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  int const ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
  float most[4], total[4] = {}, dot[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) most[i] = -INFINITY;
  for (int key = 0; key < length; key += Tr::tile) {
    float scores[4][4], slopes[4][4];
    tile_product(at.q, at.tile, at.k, key, length, ty, tx, s, scores);
    tile_product(at.dy, at.tile, at.v, key, length, ty, tx, s, slopes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float higher = most[i], sum = 0.f, weighed = 0.f;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (key + tx + 16 * j < length) higher = fmaxf(higher, scores[i][j]);
      higher = max_over_half_warp(higher);  // finite: the tile's first key is inside
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float const weight = key + tx + 16 * j < length ? exp2f((scores[i][j] - higher) * scale) : 0.f;
        sum += weight;
        weighed = fmaf(weight, slopes[i][j], weighed);
      }
      float const shrink = exp2f((most[i] - higher) * scale);
      total[i] = total[i] * shrink + sum_over_half_warp(sum);
      dot[i] = dot[i] * shrink + sum_over_half_warp(weighed);
      most[i] = higher;
    }
  }
  if (tx != 0) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int const t = at.tile + ty * 4 + i;
    std::size_t const to = at.first * Tr::heads + std::size_t(at.head) * std::size_t(length) + std::size_t(t);
    if (t < length) out[to] = {most[i], 1.f / total[i], dot[i] / total[i]};
  }
}

/// d's queries = sum over keys of weight (slope - mean) k / sqrt(d), for the block's queries; d as qkv.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    queries_backward_kernel(T const* qkv, T const* dy, query_statistics const* statistics, T* d, int length, int tiles,
                            float scale) {
  __shared__ slabs<Tr> s;
  __shared__ float factors[Tr::tile][Tr::tile + 1];
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  int const ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
  query_statistics const* const of_head =
      statistics + at.first * Tr::heads + std::size_t(at.head) * std::size_t(length);
  query_statistics mine[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) mine[i] = of_head[min(at.tile + ty * 4 + i, length - 1)];
  float dq[4][2 * Tr::slabs] = {};
  for (int key = 0; key < length; key += Tr::tile) {
    float scores[4][4], slopes[4][4];
    tile_product(at.q, at.tile, at.k, key, length, ty, tx, s, scores);
    tile_product(at.dy, at.tile, at.v, key, length, ty, tx, s, slopes);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        bool const inside = at.tile + ty * 4 + i < length && key + tx + 16 * j < length;
        float const weight = inside ? exp2f((scores[i][j] - mine[i].most) * scale) * mine[i].share : 0.f;
        factors[ty * 4 + i][tx + 16 * j] = weight * (slopes[i][j] - mine[i].mean);
      }
    add_product<Tr>(factors, at.k, key, length, ty, tx, s.a, dq);
  }
  head_tokens<T> const to{d + (at.q.data - qkv), at.q.stride};
  write_tokens<Tr>(dq, rsqrtf(float(Tr::head_dim)), to, at.tile, length, ty, tx);
}

/// d's keys and values: dv = sum over queries of weight dy, dk = sum of weight (slope - mean) q / sqrt(d).
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    keys_backward_kernel(T const* qkv, T const* dy, query_statistics const* statistics, T* d, int length, int tiles,
                         float scale) {
  __shared__ slabs<Tr> s;
  __shared__ float factors[Tr::tile][Tr::tile + 1];
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  int const ty = int(threadIdx.x) / 16, tx = int(threadIdx.x) % 16;
  query_statistics const* const of_head =
      statistics + at.first * Tr::heads + std::size_t(at.head) * std::size_t(length);
  float dk[4][2 * Tr::slabs] = {}, dv[4][2 * Tr::slabs] = {};
  for (int query = 0; query < length; query += Tr::tile) {
    float scores[4][4], slopes[4][4];  // rows are keys, columns queries
    tile_product(at.k, at.tile, at.q, query, length, ty, tx, s, scores);
    tile_product(at.v, at.tile, at.dy, query, length, ty, tx, s, slopes);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      query_statistics const of_query = of_head[min(query + tx + 16 * j, length - 1)];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        bool const inside = at.tile + ty * 4 + i < length && query + tx + 16 * j < length;
        float const weight = inside ? exp2f((scores[i][j] - of_query.most) * scale) * of_query.share : 0.f;
        factors[ty * 4 + i][tx + 16 * j] = weight;
        slopes[i][j] = weight * (slopes[i][j] - of_query.mean);
      }
    }
    add_product<Tr>(factors, at.dy, query, length, ty, tx, s.a, dv);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) factors[ty * 4 + i][tx + 16 * j] = slopes[i][j];
    add_product<Tr>(factors, at.q, query, length, ty, tx, s.a, dk);
  }
  head_tokens<T> const keys{d + (at.k.data - qkv), at.k.stride}, values{d + (at.v.data - qkv), at.v.stride};
  write_tokens<Tr>(dk, rsqrtf(float(Tr::head_dim)), keys, at.tile, length, ty, tx);
  write_tokens<Tr>(dv, 1.f, values, at.tile, length, ty, tx);
}

/// What lies between the kernels.
template <attention_shape A, class T>
struct general_backward_scratch {
  using sizes = inputs_backward_traits<general_traits<A>>;
  T* qkv;                        ///< [B L, 3 H d], convolved and turned
  T* d;                          ///< the same, their gradients
  float* table;                  ///< [L, rotary]
  query_statistics* statistics;  ///< [B, H, L]
  float* sums;                   ///< [parts, taps + 1, 3 H d]

  general_backward_scratch(arena& s, std::size_t count, int length)
      : qkv{s.template take<T>(count * 3 * A.width())},
        d{s.template take<T>(count * 3 * A.width())},
        table{s.template take<float>(std::size_t(length) * A.rotary)},
        statistics{s.template take<query_statistics>(count * A.heads)},
        sums{s.template take<float>(std::size_t(sizes::parts(count / std::size_t(length), length)) * sizes::sums)} {}
};

/// Back through rotation and convolution: dqkv (=), and the parameters' gradients (+=).
template <attention_shape A, class T>
void inputs_backward(cudaStream_t stream, T const* qkv, float const* conv, general_backward_scratch<A, T> const& s,
                     T* dqkv, attention_parameters<A, float, space::device> const& grad, int count, int length) {
  using sizes = typename general_backward_scratch<A, T>::sizes;
  int const parts = sizes::parts(std::size_t(count), length);
  launch("attention_core_backward: convolution", inputs_backward_kernel<sizes, T>,
         {dim3(unsigned(sizes::groups), unsigned(parts)), sizes::threads}, stream, qkv, s.d, conv, s.table, dqkv,
         s.sums, count, length);
  if constexpr (A.d_conv != 0) add_convolution_sums<sizes>(stream, s.sums, parts, grad.conv.data, grad.conv_bias.data);
}

/// The gradient of attention_core; rows are checked already. q, k and v are convolved again and rounded to the element,
/// as are their gradients before the way back through the convolution; scores, their weights and slopes are computed
/// three times, in float.
///
/// Scratch  2 * 3 H d elements and 3 H floats a token.
template <attention_shape A, precision P>
void launch_backward_general(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                             attention_parameters<A, float const, space::device> const& p,
                             rows<element<P> const, A.width(), space::device> dy,
                             rows<element<P>, 3 * A.width(), space::device> dqkv,
                             attention_parameters<A, float, space::device> const& grad, int length) {
  using T = element<P>;
  using traits = general_traits<A>;
  int const count = int(qkv.count / std::size_t(length));
  if (!ctx.reserve(planned_bytes<general_backward_scratch<A, T>>(qkv.count, length)) || count == 0) return;
  arena_scope const scope{ctx.shared()};
  general_backward_scratch<A, T> const s{ctx.shared(), qkv.count, length};
  if constexpr (traits::rotary != 0)
    launch("attention_core_backward: angles", rotary_table_kernel<traits>,
           {dim3(blocks_for(std::size_t(length) * traits::half, 128)), 128}, ctx.stream(), s.table, length);
  launch("attention_core_backward: inputs", inputs_kernel<traits, T>,
         {dim3(blocks_for(qkv.size(), traits::threads)), traits::threads}, ctx.stream(), qkv.data, p.conv.data,
         p.conv_bias.data, s.table, s.qkv, qkv.count, length);
  int const tiles = (length + traits::tile - 1) / traits::tile;
  launch_shape const shape{dim3(unsigned(count) * unsigned(traits::heads) * unsigned(tiles)), traits::threads};
  float const scale = float(1.4426950408889634 / std::sqrt(double(traits::head_dim)));
  launch("attention_core_backward: statistics", statistics_kernel<traits, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, length, tiles, scale);
  launch("attention_core_backward: queries", queries_backward_kernel<traits, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, s.d, length, tiles, scale);
  launch("attention_core_backward: keys", keys_backward_kernel<traits, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, s.d, length, tiles, scale);
  inputs_backward<A>(ctx.stream(), qkv.data, p.conv.data, s, dqkv.data, grad, count, length);
}

}  // namespace dm2::cuda::detail::attention_core
