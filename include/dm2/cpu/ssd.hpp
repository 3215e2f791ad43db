/// @file
/// State-space duality: the selective scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), forward.
///
/// h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T,  y_t = C_t h_t + D x_t, without the recurrence. Tokens go in tiles
/// of 64. Inside a tile the scan is a masked product, like attention:
///     y_i = sum_{j <= i} (C_i . B_j) exp(c_i - c_j) dt_j x_j,   c = cumulative sum of dt A.
/// What earlier tiles add is either the same product with the decay split at the tile's start e (quadratic form: both
/// factors exp(c_i - e) and exp(e - c_j) are at most 1, and C B^T is shared by a group's heads), or C_i times the state
/// carried from tile to tile (chunked form). The quadratic form is cheaper for short sequences.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/causal_conv1d.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

namespace dm2::cpu {

using dm2::scan_form;

namespace detail {

inline constexpr int scan_tile = 64;

/// The form that takes fewer multiplications at this length: a token's share of the products with earlier tiles,
/// L / 2 (N + H P / G) in the quadratic form against 2 N H P / G in chunks.
constexpr bool use_chunks(mixer_shape m, int length, scan_form form) {
  if (form != scan_form::automatic) return form == scan_form::chunked;
  long long const width = m.d_inner() / m.groups, before = std::max(0, length - scan_tile);
  return before * (m.d_state + width) > 4LL * m.d_state * width;
}

/// One sequence as the scan reads it: x [L, H P], B and C [L, G N], each with a stride of its own.
template <class T>
struct scan_input {
  sequence<T const> x, b, c;
  T const* dt;   ///< [H, L], after softplus
  T const* cum;  ///< [H, L], cumulative sum of dt A from the start of each token's tile
};

/// Scratch of scan_forward.
template <mixer_shape M, class T>
struct scan_scratch {
  static constexpr std::size_t group_width = std::size_t(M.d_inner() / M.groups);
  T *scores, *scaled, *before, *masked, *weights, *state;

  scan_scratch(arena& a, int length, bool chunked) {
    std::size_t const columns = std::size_t(chunked ? std::min(length, scan_tile) : length);
    scores = a.template take<T>(scan_tile * columns);
    scaled = a.template take<T>(columns * group_width);
    before = a.template take<T>(scan_tile * group_width);
    masked = a.template take<T>(std::size_t(scan_tile) * scan_tile);
    weights = a.template take<T>(scan_tile);
    state = a.template take<T>(chunked ? std::size_t(M.d_state) * std::size_t(M.d_inner()) : 0);
  }
};

/// cum[h, t] = sum_k dt[h, k] A[h] over the tokens k <= t of t's tile. Starting anew in each tile keeps
/// the sums small and the differences in the exponents exact to rounding.
template <class T>
void cumulative_decay(T const* dt, T const* a, int heads, int length, T* cum) {
  for (int h = 0; h < heads; ++h) {
    T sum = 0;
    for (int t = 0; t < length; ++t) {
      sum = (t % scan_tile == 0 ? T(0) : sum) + dt[h * length + t] * a[h];
      cum[h * length + t] = sum;
    }
  }
}

/// out[j, :] = dt_j exp(at - cum_j) x_j for the n tokens of one tile and one head. `weights` is scratch for n numbers.
template <class T>
void scale_tile(sequence<T const> x, int n, int headdim, T const* dt, T const* cum, T at, T* weights, T* out,
                std::ptrdiff_t stride) {
  auto w = array(weights, n);
  w = (at - array(cum, n)).exp();
  w = (w < T(1e-30)).select(T(0), w * array(dt, n));  // below, products would only make slow denormal numbers
  for (int j = 0; j < n; ++j) array(out + j * stride, headdim) = weights[j] * array(x[j], headdim);
}

/// The same for every tile before token t0, decayed to t0.
template <class T>
void scale_tiles_before(sequence<T const> x, int t0, int headdim, T const* dt, T const* cum, T* weights, T* out,
                        std::ptrdiff_t stride) {
  T between = 0;  // the decay of the tiles from here to t0
  for (int t = t0 - scan_tile; t >= 0; t -= scan_tile) {
    T const at = between + cum[t + scan_tile - 1];
    scale_tile(sequence<T const>{x[t], x.stride, scan_tile}, scan_tile, headdim, dt + t, cum + t, at, weights,
               out + t * stride, stride);
    between = at;
  }
}

/// masked[i, j] = scores[i, j] exp(c_i - c_j) dt_j for j <= i, else 0; scores has its own stride.
template <class T>
void mask_scores(T const* scores, std::ptrdiff_t stride, T const* dt, T const* cum, int n, T* masked) {
  for (int i = 0; i < n; ++i) {
    auto row = array(masked + i * n, n);
    row.head(i + 1) = array(scores + i * stride, i + 1) * (cum[i] - array(cum, i + 1)).exp() * array(dt, i + 1);
    row.tail(n - 1 - i).setZero();
  }
}

/// y[i, :] = D x[i, :] + exp(c_i) before[i, :] + (masked x)[i, :] for the n tokens of one tile and one head; `before`
/// may be null.
template <class T>
void write_head(sequence<T const> x, T const* cum, int n, int headdim, T skip, T const* before, std::ptrdiff_t stride,
                T const* masked, sequence<T> y) {
  for (int i = 0; i < n; ++i) {
    auto out = array(y[i], headdim);
    out = skip * array(x[i], headdim);
    if (before != nullptr) out += std::exp(cum[i]) * array(before + i * stride, headdim);
  }
  gemm<op::plain, op::plain, true, T>({masked, n, n}, {x.data, n, headdim, x.stride}, {y.data, n, headdim, y.stride});
}

/// One tile of one group of heads.
template <mixer_shape M, class T>
void scan_tile_forward(scan_input<T> const& in, T const* skip, sequence<T> y, int t0, int group, bool chunked,
                       scan_scratch<M, T> const& s) {
  constexpr int P = M.headdim, N = M.d_state, per_group = M.heads / M.groups, width = per_group * P;
  int const length = in.x.length, n = std::min(scan_tile, length - t0), begin = chunked ? t0 : 0;
  int const columns = t0 + n - begin, first_head = group * per_group;
  matrix<T const> const c{in.c[t0] + group * N, n, N, in.c.stride}, b{in.b[begin] + group * N, columns, N, in.b.stride};
  matrix<T> const state{s.state + group * N * width, N, width}, before{s.before, n, width};
  auto const head_x = [&](int h, int t) { return sequence<T const>{in.x[t] + h * P, in.x.stride, length - t}; };

  gemm<op::plain, op::transposed, false, T>(c, b, {s.scores, n, columns});
  if (t0 > 0 && chunked) gemm<op::plain, op::plain, false, T>(c, state, before);
  if (t0 > 0 && !chunked) {
    for (int h = first_head; h < first_head + per_group; ++h)
      scale_tiles_before(head_x(h, 0), t0, P, in.dt + h * length, in.cum + h * length, s.weights,
                         s.scaled + (h - first_head) * P, width);
    gemm<op::plain, op::plain, false, T>({s.scores, n, t0, columns}, {s.scaled, t0, width}, before);
  }
  for (int h = first_head; h < first_head + per_group; ++h) {
    T const *dt = in.dt + h * length + t0, *cum = in.cum + h * length + t0;
    int const at = (h - first_head) * P;
    mask_scores(s.scores + t0 - begin, columns, dt, cum, n, s.masked);
    write_head(head_x(h, t0), cum, n, P, skip[h], t0 > 0 ? s.before + at : nullptr, width, s.masked,
               sequence<T>{y[t0] + h * P, y.stride, n});
    if (!chunked || t0 + n == length) continue;
    scale_tile(head_x(h, t0), n, P, dt, cum, cum[n - 1], s.weights, s.scaled + at, width);
    T const decay = std::exp(cum[n - 1]);
    for (int k = 0; k < N; ++k) array(state.data + k * width + at, P) *= decay;
  }
  if (chunked && t0 + n < length)  // carry the state to the tile's end
    gemm<op::transposed, op::plain, true, T>(b, {s.scaled, n, width}, state);
}

/// y = scan(x, dt, A, B, C) + D x for one sequence, on the calling thread.
///
/// Shapes   y [L, H P]; skip = D [H]. Writes y (=), which overlaps no input.
template <mixer_shape M, class T>
void scan_forward(scan_input<T> const& in, T const* skip, sequence<T> y, scan_form form, arena& scratch) {
  bool const chunked = use_chunks(M, in.x.length, form);
  arena_scope const scope{scratch};
  scan_scratch<M, T> const s{scratch, in.x.length, chunked};
  if (chunked) array(s.state, M.d_state * M.d_inner()).setZero();
  for (int t0 = 0; t0 < in.x.length; t0 += scan_tile)
    for (int g = 0; g < M.groups; ++g) scan_tile_forward<M>(in, skip, y, t0, g, chunked, s);
}

/// Scratch of one sequence of the public operation.
template <mixer_shape M, class T>
struct ssd_scratch {
  T *dt, *cum;

  ssd_scratch(arena& a, int length) {
    std::size_t const n = std::size_t(M.heads) * std::size_t(length);
    dt = a.template take<T>(n);
    cum = a.template take<T>(n);
  }

  /// Fills both from dt [L, H] of one sequence.
  void fill(T const* steps, T const* decay_rate, int length) const {
    for (int t = 0; t < length; ++t)
      for (int h = 0; h < M.heads; ++h) dt[h * length + t] = steps[t * M.heads + h];
    cumulative_decay(dt, decay_rate, M.heads, length, cum);
  }
};

}  // namespace detail

using dm2::ssd_input;

namespace detail {
/// Sequence `index` of a batch, with its dt and cumulative decay in `s`.
template <mixer_shape M, class T>
scan_input<T> scan_sequence(ssd_input<M, T> const& in, int index, ssd_scratch<M, T> const& s) {
  constexpr int width = M.d_inner(), state = M.groups * M.d_state;
  std::ptrdiff_t const first = std::ptrdiff_t{index} * in.length;
  s.fill(in.dt.data + first * M.heads, in.a.data, in.length);
  return {{in.x.data + first * width, width, in.length},
          {in.b.data + first * state, state, in.length},
          {in.c.data + first * state, state, in.length},
          s.dt,
          s.cum};
}
}  // namespace detail

/// y = scan(x, dt, A, B, C) + D x for each sequence; head h reads group h / (H / G).
///
/// Shapes   ssd_input; y [B L, H P]. Any L >= 1.
/// Writes   y (=). y overlaps no input. One sequence runs on one thread.
/// Throws   shape_error if the operands disagree; nothing is written then.
/// Source   Dao & Gu 2024, section 6 (arXiv 2405.21060).
template <mixer_shape M, class T>
void ssd(context<T>& ctx, ssd_input<M, T> const& in, std::type_identity_t<rows<T, M.d_inner()>> y,
         scan_form form = scan_form::automatic) {
  int const count = in.sequences();
  require_extent("ssd.y rows", y.count, in.x.count);
  bool const chunked = detail::use_chunks(M, in.length, form);
  if (!ctx.reserve(0, planned_bytes<detail::ssd_scratch<M, T>>(in.length) +
                          planned_bytes<detail::scan_scratch<M, T>>(in.length, chunked)))
    return;
  ctx.for_each(count, [&](int i, arena& scratch) {
    detail::ssd_scratch<M, T> const s{scratch, in.length};
    std::ptrdiff_t const first = std::ptrdiff_t{i} * in.length * M.d_inner();
    detail::scan_forward<M>(detail::scan_sequence(in, i, s), in.d.data,
                            sequence<T>{y.data + first, M.d_inner(), in.length}, form, scratch);
  });
}

}  // namespace dm2::cpu
