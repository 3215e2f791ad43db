/// @file
/// The gradient of the attention mixer between its projections, composed: for any shape, length and precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/backward_general.cuh>
#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/general.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/sequences.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cmath>
#include <cstddef>

namespace dm2::cuda::detail {

/// What lies between the kernels.
template <attention_shape A, class T>
struct attention_backward_scratch {
  using sizes = inputs_backward_traits<general_attention_traits<A>>;
  T* qkv;                        ///< [B L, 3 H d], convolved and turned
  T* d;                          ///< the same, their gradients
  float* table;                  ///< [L, rotary]
  query_statistics* statistics;  ///< [B, H, L]
  float* sums;                   ///< [parts, taps + 1, 3 H d]

  attention_backward_scratch(arena& s, std::size_t count, int length)
      : qkv{s.template take<T>(count * 3 * A.width())},
        d{s.template take<T>(count * 3 * A.width())},
        table{s.template take<float>(std::size_t(length) * A.rotary)},
        statistics{s.template take<query_statistics>(count * A.heads)},
        sums{s.template take<float>(std::size_t(sizes::parts(count / std::size_t(length), length)) * sizes::sums)} {}
};

/// Back through rotation and convolution: dqkv (=), and the parameters' gradients (+=).
template <attention_shape A, class T>
void attention_inputs_backward(cudaStream_t stream, T const* qkv, float const* conv,
                               attention_backward_scratch<A, T> const& s, T* dqkv,
                               attention_parameters<A, float, space::device> const& grad, int count, int length) {
  using sizes = typename attention_backward_scratch<A, T>::sizes;
  int const parts = sizes::parts(std::size_t(count), length);
  launch("attention_core_backward: convolution", attention_inputs_backward_kernel<sizes, T>,
         {dim3(unsigned(sizes::groups), unsigned(parts)), sizes::threads}, stream, qkv, s.d, conv, s.table, dqkv,
         s.sums, count, length);
  if constexpr (A.d_conv != 0)
    launch("attention_core_backward: sums", attention_sums_kernel<sizes>,
           {dim3(blocks_for(std::size_t{sizes::sums}, 32)), sizes::threads}, stream, s.sums, parts, grad.conv.data,
           grad.conv_bias.data);
}

/// The gradient of attention_core; rows are checked already. q, k and v are convolved again and rounded to the element,
/// as are their gradients before the way back through the convolution; scores, their weights and slopes are computed
/// three times, in float.
///
/// Scratch  2 * 3 H d elements and 3 H floats a token.
template <attention_shape A, precision P>
void attention_core_backward_general(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                                     attention_parameters<A, float const, space::device> const& p,
                                     rows<element<P> const, A.width(), space::device> dy,
                                     rows<element<P>, 3 * A.width(), space::device> dqkv,
                                     attention_parameters<A, float, space::device> const& grad, int length) {
  using T = element<P>;
  using traits = general_attention_traits<A>;
  int const count = int(qkv.count / std::size_t(length));
  if (!ctx.reserve(planned_bytes<attention_backward_scratch<A, T>>(qkv.count, length)) || count == 0) return;
  arena_scope const scope{ctx.shared()};
  attention_backward_scratch<A, T> const s{ctx.shared(), qkv.count, length};
  if constexpr (traits::rotary != 0)
    launch("attention_core_backward: angles", rotary_table_kernel<traits>,
           {dim3(blocks_for(std::size_t(length) * traits::half, 128)), 128}, ctx.stream(), s.table, length);
  launch("attention_core_backward: inputs", attention_inputs_kernel<traits, T>,
         {dim3(blocks_for(qkv.size(), traits::threads)), traits::threads}, ctx.stream(), qkv.data, p.conv.data,
         p.conv_bias.data, s.table, s.qkv, qkv.count, length);
  int const tiles = (length + traits::tile - 1) / traits::tile;
  launch_shape const shape{dim3(unsigned(count) * unsigned(traits::heads) * unsigned(tiles)), traits::threads};
  float const scale = float(1.4426950408889634 / std::sqrt(double(traits::head_dim)));
  launch("attention_core_backward: statistics", attention_statistics_kernel<traits, T>, shape, ctx.stream(), s.qkv,
         dy.data, s.statistics, length, tiles, scale);
  launch("attention_core_backward: queries", attention_queries_backward_kernel<traits, T>, shape, ctx.stream(), s.qkv,
         dy.data, s.statistics, s.d, length, tiles, scale);
  launch("attention_core_backward: keys", attention_keys_backward_kernel<traits, T>, shape, ctx.stream(), s.qkv,
         dy.data, s.statistics, s.d, length, tiles, scale);
  attention_inputs_backward<A>(ctx.stream(), qkv.data, p.conv.data, s, dqkv.data, grad, count, length);
}

}  // namespace dm2::cuda::detail
