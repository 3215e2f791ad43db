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

/// What a block of the kernels below works on, with dy and the statistics of the sequence's queries.
template <class Tr, class T>
struct head_backward_place : head_place<Tr, T> {
  head_tokens<T const> dy;
  std::size_t statistics;  ///< of the head's first query

  __device__ head_backward_place(T const* qkv, T const* gradient, int length, int tiles)
      : head_place<Tr, T>{qkv, length, tiles},
        dy{gradient + this->first * Tr::width + this->head * Tr::head_dim, Tr::width},
        statistics{this->first * Tr::heads + std::size_t(this->head) * std::size_t(length)} {}
};

/// A query's softmax weight of a key, 0 where either is outside.
__device__ inline float weight_of(float score, query_statistics const& of, float scale, bool inside) {
  return inside ? exp2f((score - of.most) * scale) * of.share : 0.f;
}

/// out [count, heads, length]: the statistics of every query; `scale` is log2(e) / sqrt(d), here and below.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    statistics_kernel(T const* qkv, T const* dy, query_statistics* out, int length, int tiles, float scale) {
  __shared__ slabs<Tr> s;
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  float most[Tr::rows], total[Tr::rows] = {}, dot[Tr::rows] = {};
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i) most[i] = -INFINITY;
  for (int key = 0; key < length; key += Tr::tile) {
    float scores[Tr::rows][Tr::columns], slopes[Tr::rows][Tr::columns];
    tile_product(at.q, at.tile, at.k, key, length, s, scores);
    tile_product(at.dy, at.tile, at.v, key, length, s, slopes);
#pragma unroll
    for (int i = 0; i < Tr::rows; ++i) {
      float const higher = greatest_score<Tr>(most[i], scores[i], length - key);
      float sum = 0.f, weighed = 0.f;
#pragma unroll
      for (int j = 0; j < Tr::columns; ++j) {
        bool const inside = key + Tr::thread::column(j) < length;
        float const weight = inside ? exp2f((scores[i][j] - higher) * scale) : 0.f;
        sum += weight;
        weighed = fmaf(weight, slopes[i][j], weighed);
      }
      float const shrink = exp2f((most[i] - higher) * scale);
      total[i] = total[i] * shrink + sum_over_lanes<Tr::thread::sharing>(sum);
      dot[i] = dot[i] * shrink + sum_over_lanes<Tr::thread::sharing>(weighed);
      most[i] = higher;
    }
  }
  if (Tr::thread::column(0) != 0) return;
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i) {
    int const t = at.tile + Tr::thread::row(i);
    if (t < length) out[at.statistics + std::size_t(t)] = {most[i], 1.f / total[i], dot[i] / total[i]};
  }
}

/// d's queries = sum over keys of weight (slope - mean) k / sqrt(d), for the block's queries; d as qkv.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads, 2)
    queries_backward_kernel(T const* qkv, T const* dy, query_statistics const* statistics, T* d, int length, int tiles,
                            float scale) {
  __shared__ slabs<Tr> s;
  alignas(16) __shared__ float factors[Tr::tile][Tr::factor_pitch];
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  query_statistics mine[Tr::rows];
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i)
    mine[i] = statistics[at.statistics + std::size_t(min(at.tile + Tr::thread::row(i), length - 1))];
  float dq[Tr::rows][Tr::channels] = {};
  for (int key = 0; key < length; key += Tr::tile) {
    float scores[Tr::rows][Tr::columns], slopes[Tr::rows][Tr::columns];
    tile_product(at.q, at.tile, at.k, key, length, s, scores);
    tile_product(at.dy, at.tile, at.v, key, length, s, slopes);
#pragma unroll
    for (int i = 0; i < Tr::rows; ++i)
#pragma unroll
      for (int j = 0; j < Tr::columns; ++j) {
        int const row = Tr::thread::row(i), column = Tr::thread::column(j);
        bool const inside = at.tile + row < length && key + column < length;
        factors[row][column] = weight_of(scores[i][j], mine[i], scale, inside) * (slopes[i][j] - mine[i].mean);
      }
    add_product<Tr>(factors, at.k, key, length, s.a, dq);
  }
  float const back = rsqrtf(float(Tr::head_dim));
  write_tokens<Tr>(head_tokens<T>{d + (at.q.data - qkv), at.q.stride}, at.tile, length,
                   [&](int i, int c) { return dq[i][c] * back; });
}

/// d's keys and values: dv = sum over queries of weight dy, dk = sum of weight (slope - mean) q / sqrt(d).
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads, 2)
    keys_backward_kernel(T const* qkv, T const* dy, query_statistics const* statistics, T* d, int length, int tiles,
                         float scale) {
  __shared__ slabs<Tr> s;
  alignas(16) __shared__ float factors[Tr::tile][Tr::factor_pitch];
  head_backward_place<Tr, T> const at{qkv, dy, length, tiles};
  float dk[Tr::rows][Tr::channels] = {}, dv[Tr::rows][Tr::channels] = {};
  for (int query = 0; query < length; query += Tr::tile) {
    float scores[Tr::rows][Tr::columns], slopes[Tr::rows][Tr::columns];  // rows are keys, columns queries
    tile_product(at.k, at.tile, at.q, query, length, s, scores);
    tile_product(at.v, at.tile, at.dy, query, length, s, slopes);
#pragma unroll
    for (int j = 0; j < Tr::columns; ++j) {
      int const column = Tr::thread::column(j);
      query_statistics const of_query = statistics[at.statistics + std::size_t(min(query + column, length - 1))];
#pragma unroll
      for (int i = 0; i < Tr::rows; ++i) {
        int const row = Tr::thread::row(i);
        bool const inside = at.tile + row < length && query + column < length;
        float const weight = weight_of(scores[i][j], of_query, scale, inside);
        factors[row][column] = weight;
        slopes[i][j] = weight * (slopes[i][j] - of_query.mean);
      }
    }
    add_product<Tr>(factors, at.dy, query, length, s.a, dv);
#pragma unroll
    for (int i = 0; i < Tr::rows; ++i)
#pragma unroll
      for (int j = 0; j < Tr::columns; ++j) factors[Tr::thread::row(i)][Tr::thread::column(j)] = slopes[i][j];
    add_product<Tr>(factors, at.q, query, length, s.a, dk);
  }
  float const back = rsqrtf(float(Tr::head_dim));
  write_tokens<Tr>(head_tokens<T>{d + (at.k.data - qkv), at.k.stride}, at.tile, length,
                   [&](int i, int c) { return dk[i][c] * back; });
  write_tokens<Tr>(head_tokens<T>{d + (at.v.data - qkv), at.v.stride}, at.tile, length,
                   [&](int i, int c) { return dv[i][c]; });
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
         {dim3(unsigned(sizes::groups), unsigned(parts)), sizes::threads}, stream,
         inputs_backward_arguments<T>{.qkv = qkv,
                                      .d = s.d,
                                      .conv = conv,
                                      .table = s.table,
                                      .dqkv = dqkv,
                                      .sums = s.sums,
                                      .count = count,
                                      .length = length});
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
  using tiled = tile_traits<A, P == precision::tf32>;
  launch_shape const shape{dim3(unsigned(count) * unsigned(traits::heads) * unsigned(tiles)), tiled::threads};
  float const scale = float(1.4426950408889634 / std::sqrt(double(traits::head_dim)));
  launch("attention_core_backward: statistics", statistics_kernel<tiled, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, length, tiles, scale);
  launch("attention_core_backward: queries", queries_backward_kernel<tiled, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, s.d, length, tiles, scale);
  launch("attention_core_backward: keys", keys_backward_kernel<tiled, T>, shape, ctx.stream(), s.qkv, dy.data,
         s.statistics, s.d, length, tiles, scale);
  inputs_backward<A>(ctx.stream(), qkv.data, p.conv.data, s, dqkv.data, grad, count, length);
}

}  // namespace dm2::cuda::detail::attention_core
