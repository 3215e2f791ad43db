/// @file
/// The attention mixer between its projections: causal convolution over q, k and v, rotary embedding, softmax
/// attention.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/causal_conv1d.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gradient_parts.hpp>
#include <dm2/cpu/mixer_core.hpp>
#include <dm2/cpu/rotary.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dm2::cpu {
namespace detail {

/// Query rows that are worked on at a time: their scores against every key fit in cache.
inline constexpr int query_tile = 64;

/// One head of one sequence: its arranged taps, and q, k, v after convolution and rotary, each [L, head_dim].
template <attention_shape A, class T>
struct head_scratch {
  static constexpr int width = A.head_dim;
  T *taps, *q, *k, *v, *scores, *out;

  head_scratch(arena& s, int length) {
    std::size_t const n = std::size_t(length) * width;
    taps = s.template take<T>(std::size_t(3) * A.d_conv * width);
    for (T** p : {&q, &k, &v}) *p = s.template take<T>(n);
    scores = s.template take<T>(std::size_t(query_tile) * std::size_t(length));
    out = s.template take<T>(std::size_t(query_tile) * width);
  }
  [[nodiscard]] sequence<T> part(int which, int length) const {
    return {which == 0 ? q : which == 1 ? k : v, width, length};
  }
};

/// Fills taps, q, k and v of one head from qkv [L, 3 H d].
template <attention_shape A, class T>
void head_inputs(sequence<T const> qkv, attention_parameters<A, T const> const& p, int head, T const* table,
                 head_scratch<A, T> const& s) {
  constexpr int width = A.head_dim;
  for (int which = 0; which < 3; ++which) {
    int const channel = which * A.width() + head * width;
    sequence<T const> const in = qkv.from(channel);
    sequence<T> const out = s.part(which, qkv.length);
    if constexpr (A.d_conv != 0) {
      T* const taps = s.taps + which * A.d_conv * width;
      arrange_taps(p.conv.data + channel * A.d_conv, width, A.d_conv, false, taps);
      causal_conv1d(in, width, A.d_conv, taps, p.conv_bias.data + channel, out);
    } else {
      for (int t = 0; t < in.length; ++t) array(out[t], width) = array(in[t], width);
    }
    if (which < 2 && A.rotary != 0) rotate(out, A.rotary, table, T(1));
  }
}

/// scores [n, L] = softmax(q k^T / sqrt(d)) for the n queries from t0 on.
template <attention_shape A, class T>
void softmax_rows(int t0, int n, int length, head_scratch<A, T> const& s) {
  constexpr int width = A.head_dim;
  gemm<op::plain, op::transposed, false, T>({s.q + t0 * width, n, width}, {s.k, length, width}, {s.scores, n, length});
  T const scale = T(1) / std::sqrt(T(width));
  for (int i = 0; i < n; ++i) {
    auto row = array(s.scores + std::ptrdiff_t{i} * length, length);
    row = ((row - row.maxCoeff()) * scale).exp();
    row *= T(1) / row.sum();
  }
}

template <attention_shape A, class T>
T* take_rotary_table(arena& shared, int length) {
  T* const table = shared.take<T>(std::size_t(length) * A.rotary);
  if constexpr (A.rotary != 0) rotary_table(length, A.rotary, table);
  return table;
}

template <attention_shape A, class T>
std::size_t rotary_table_bytes(int length) {
  return std::size_t(length) * A.rotary * sizeof(T) + arena::alignment;
}

}  // namespace detail

/// y = softmax(q k^T / sqrt(d)) v for each head, not causal; q, k, v = conv(qkv), q and k turned by their position.
///
/// Shapes   qkv [B L, 3 H d], channels [q, k, v], each head after head; y [B L, H d]; `length` = L, any L >= 1.
/// Writes   y (=), which does not overlap qkv. Nothing is saved: backward computes the inside again.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, class T>
void attention_core(context<T>& ctx, std::type_identity_t<rows<T const, 3 * A.width()>> qkv,
                    attention_parameters<A, T const> const& p, std::type_identity_t<rows<T, A.width()>> y, int length) {
  using namespace detail;
  constexpr int width = A.head_dim;
  int const count = whole_sequences("attention_core.qkv", qkv.count, length);
  require_extent("attention_core.y rows", y.count, qkv.count);
  if (!ctx.reserve(rotary_table_bytes<A, T>(length), planned_bytes<head_scratch<A, T>>(length))) return;
  arena_scope const scope{ctx.shared()};
  T const* const table = take_rotary_table<A, T>(ctx.shared(), length);
  ctx.for_each(count * A.heads, [&](int task, arena& scratch) {
    int const head = task % A.heads;
    std::ptrdiff_t const row = std::ptrdiff_t{task / A.heads} * length;
    head_scratch<A, T> const s{scratch, length};
    head_inputs(sequence<T const>{qkv.data + row * 3 * A.width(), 3 * A.width(), length}, p, head, table, s);
    for (int t0 = 0; t0 < length; t0 += query_tile) {
      int const n = std::min(query_tile, length - t0);
      softmax_rows(t0, n, length, s);
      gemm<op::plain, op::plain, false, T>({s.scores, n, length}, {s.v, length, width},
                                           {y.data + (row + t0) * A.width() + head * width, n, width, A.width()});
    }
  });
}

}  // namespace dm2::cpu
