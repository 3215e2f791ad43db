/// @file
/// The attention mixer between its projections, composed: for any shape, length and precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/general.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/sequences.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dm2::cuda::detail {

/// What lies between the kernels.
template <attention_shape A, class T>
struct attention_scratch {
  T* qkv;        ///< [B L, 3 H d], convolved and turned
  float* table;  ///< [L, rotary]

  attention_scratch(arena& s, std::size_t count, int length)
      : qkv{s.template take<T>(count * 3 * A.width())}, table{s.template take<float>(std::size_t(length) * A.rotary)} {}
};

/// y = softmax(q k^T / sqrt(d)) v for each head, not causal; q, k, v = conv(qkv), q and k turned by their position,
/// rounded to the context's element.
///
/// Shapes   qkv [B L, 3 H d], channels [q, k, v], each head after head; y [B L, H d]; `length` = L, any L >= 1.
/// Writes   y (=), which does not overlap qkv. The scores are not stored.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, precision P>
void attention_core_general(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                            attention_parameters<A, float const, space::device> const& p,
                            rows<element<P>, A.width(), space::device> y, int length) {
  using T = element<P>;
  using traits = general_attention_traits<A>;
  int const count = whole_sequences("attention_core.qkv", qkv.count, length);
  require_extent("attention_core.y rows", y.count, qkv.count);
  if (!ctx.reserve(planned_bytes<attention_scratch<A, T>>(qkv.count, length)) || count == 0) return;
  arena_scope const scope{ctx.shared()};
  attention_scratch<A, T> const s{ctx.shared(), qkv.count, length};
  if constexpr (traits::rotary != 0) {
    launch("attention_core: angles", rotary_table_kernel<traits>,
           {blocks_for(std::size_t(length) * traits::half, 128), 128}, ctx.stream(), s.table, length);
  }
  launch("attention_core: convolution", attention_inputs_kernel<traits, T>,
         {blocks_for(qkv.size(), traits::threads), traits::threads}, ctx.stream(), qkv.data, p.conv.data,
         p.conv_bias.data, s.table, s.qkv, qkv.count, length);
  int const tiles = (length + traits::tile - 1) / traits::tile;
  unsigned const blocks = unsigned(count) * unsigned(traits::heads) * unsigned(tiles);
  float const scale = float(1.4426950408889634 / std::sqrt(double(traits::head_dim)));
  launch("attention_core", attention_general_kernel<traits, T>, {blocks, traits::threads}, ctx.stream(), s.qkv, y.data,
         length, tiles, scale);
}

}  // namespace dm2::cuda::detail
