/// @file
/// The attention mixer between its projections, backward.
#pragma once

#include <dm2/cpu/attention_core.hpp>

namespace dm2::cpu {
namespace detail {

/// Scratch of one head's backward, beside head_scratch.
template <attention_shape A, class T>
struct head_backward_scratch {
  T *dq, *dk, *dv, *dscores;

  head_backward_scratch(arena& s, int length) {
    std::size_t const n = std::size_t(length) * A.head_dim;
    for (T** p : {&dq, &dk, &dv}) *p = s.template take<T>(n);
    dscores = s.template take<T>(std::size_t(query_tile) * std::size_t(length));
  }
  [[nodiscard]] sequence<T> part(int which, int length) const {
    return {which == 0 ? dq : which == 1 ? dk : dv, A.head_dim, length};
  }
};

/// With S = softmax(q k^T / sqrt(d)):  dv = S^T dy,  dS = dy v^T,  dR = S (dS - rowsum(S dS)) / sqrt(d),  dq = dR k,
/// dk = dR^T q.
template <attention_shape A, class T>
void attention_head_backward(sequence<T const> dy, head_scratch<A, T> const& s, head_backward_scratch<A, T> const& b) {
  constexpr int width = A.head_dim;
  int const length = dy.length;
  T const scale = T(1) / std::sqrt(T(width));
  array(b.dk, std::ptrdiff_t{length} * width).setZero();
  array(b.dv, std::ptrdiff_t{length} * width).setZero();
  for (int t0 = 0; t0 < length; t0 += query_tile) {
    int const n = std::min(query_tile, length - t0);
    matrix<T const> const g{dy[t0], n, width, dy.stride};
    matrix<T> const scores{s.scores, n, length}, dscores{b.dscores, n, length};
    softmax_rows(t0, n, length, s);
    gemm<op::transposed, op::plain, true, T>(scores, g, {b.dv, length, width});
    gemm<op::plain, op::transposed, false, T>(g, {s.v, length, width}, dscores);
    for (int i = 0; i < n; ++i) {
      auto const row = array(scores.data + std::ptrdiff_t{i} * length, length);
      auto drow = array(dscores.data + std::ptrdiff_t{i} * length, length);
      T const mean = (row * drow).sum();
      drow = row * (drow - mean) * scale;
    }
    gemm<op::plain, op::plain, false, T>(dscores, {s.k, length, width}, {b.dq + t0 * width, n, width});
    gemm<op::transposed, op::plain, true, T>(dscores, {s.q + t0 * width, n, width}, {b.dk, length, width});
  }
}

/// From the gradients of one head's q, k and v to dqkv (=), and to the arranged taps and bias of its channels in `sum`
/// (+=): [3, d_conv, head_dim] taps, then [3, head_dim] biases.
template <attention_shape A, class T>
void head_inputs_backward(sequence<T const> qkv, int head, T const* table, head_scratch<A, T> const& s,
                          head_backward_scratch<A, T> const& b, sequence<T> dqkv, T* sum) {
  constexpr int width = A.head_dim;
  for (int which = 0; which < 3; ++which) {
    int const channel = which * A.width() + head * width;
    sequence<T> const d = b.part(which, qkv.length), out = dqkv.from(channel);
    if (which < 2 && A.rotary != 0) rotate(d, A.rotary, table, T(-1));
    if constexpr (A.d_conv != 0) {
      for (int t = 0; t < qkv.length; ++t) array(out[t], width).setZero();
      int const taps = which * A.d_conv * width;
      causal_conv1d_backward(qkv.from(channel), width, A.d_conv, s.taps + taps,
                             sequence<T const>{d.data, d.stride, d.length}, out, sum + taps,
                             sum + 3 * A.d_conv * width + which * width);
    } else {
      for (int t = 0; t < qkv.length; ++t) array(out[t], width) = array(d[t], width);
    }
  }
}

/// Adds the sums of every part and head to the parameters' gradient.
template <attention_shape A, class T>
void add_attention_sums(T const* sums, attention_parameters<A, T> const& grad) {
  constexpr int width = A.head_dim, size = 3 * (A.d_conv + 1) * width;
  for (int task = 0; task < gradient_parts * A.heads; ++task)
    for (int which = 0; which < 3; ++which) {
      int const channel = which * A.width() + task % A.heads * width;
      T const* const sum = sums + task * size;
      add_arranged_taps(sum + which * A.d_conv * width, width, A.d_conv, false, grad.conv.data + channel * A.d_conv);
      array(grad.conv_bias.data + channel, width) += array(sum + (3 * A.d_conv + which) * width, width);
    }
}

}  // namespace detail

/// The gradient of attention_core. Intermediate results are computed again from qkv.
///
/// Shapes   as attention_core; dy [B L, H d]; dqkv [B L, 3 H d].
/// Writes   dqkv (=); grad (+=).
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, class T>
void attention_core_backward(context<T>& ctx, std::type_identity_t<rows<T const, 3 * A.width()>> qkv,
                             attention_parameters<A, T const> const& p,
                             std::type_identity_t<rows<T const, A.width()>> dy,
                             std::type_identity_t<rows<T, 3 * A.width()>> dqkv, attention_parameters<A, T> const& grad,
                             int length) {
  using namespace detail;
  constexpr int size = 3 * (A.d_conv + 1) * A.head_dim, tasks = gradient_parts * A.heads;
  int const count = whole_sequences("attention_core_backward.qkv", qkv.count, length);
  require_extent("attention_core_backward.dy rows", dy.count, qkv.count);
  require_extent("attention_core_backward.dqkv rows", dqkv.count, qkv.count);
  if (!ctx.reserve(rotary_table_bytes<A, T>(length) + std::size_t(tasks) * size * sizeof(T) + arena::alignment,
                   planned_bytes<head_scratch<A, T>>(length) + planned_bytes<head_backward_scratch<A, T>>(length)))
    return;
  arena_scope const scope{ctx.shared()};
  T const* const table = take_rotary_table<A, T>(ctx.shared(), length);
  T* const sums = ctx.shared().template take<T>(std::size_t(tasks) * size);
  ctx.for_each(tasks, [&](int task, arena& scratch) {
    int const head = task % A.heads;
    head_scratch<A, T> const s{scratch, length};
    head_backward_scratch<A, T> const b{scratch, length};
    array(sums + task * size, size).setZero();
    for (int i = task / A.heads; i < count; i += gradient_parts) {
      std::ptrdiff_t const row = std::ptrdiff_t{i} * length;
      sequence<T const> const in{qkv.data + row * 3 * A.width(), 3 * A.width(), length};
      head_inputs(in, p, head, table, s);
      attention_head_backward(sequence<T const>{dy.data + row * A.width() + head * A.head_dim, A.width(), length}, s,
                              b);
      head_inputs_backward(in, head, table, s, b, sequence<T>{dqkv.data + row * 3 * A.width(), 3 * A.width(), length},
                           sums + task * size);
    }
  });
  if constexpr (A.d_conv != 0) add_attention_sums(sums, grad);
}

}  // namespace dm2::cpu
