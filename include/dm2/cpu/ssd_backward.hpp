/// @file
/// State-space duality, backward: tile by tile from the last token to the first.
///
/// With G = C B^T, E_ij = exp(c_i - c_j) (i >= j, inside a tile, c from the tile's start), W_ij = dy_i . x_j, and the
/// state h that enters and the gradient dh that leaves a tile with decay e = exp(c_end):
///     U_j  = sum_{i >= j} G_ij E_ij dy_i + exp(c_end - c_j) dh B_j          dx_j = dt_j U_j + D dy_j,  dD = sum dy . x
///     dG   = sum over heads of E W dt_j                                      dC += dG B,  dB += dG^T C
///     dC_i += exp(c_i) h dy_i,  dB_j += dt_j exp(c_end - c_j) dh x_j         dh <- e dh + sum_i exp(c_i) C_i dy_i^T
///     da_t = sum_{i >= t > j} G_ij E_ij W_ij dt_j + sum_{i >= t} exp(c_i) dy_i . (C_i h)
///            + sum_{j < t} dt_j exp(c_end - c_j) x_j . (dh B_j) + e <h, dh>
///     d dt = x . U + A da,  dA = sum dt da
/// The sums for da are over rectangles, without cancellation; row sums minus column sums would lose digits.
#pragma once

#include <dm2/cpu/gradient_parts.hpp>
#include <dm2/cpu/ssd.hpp>

namespace dm2::cpu {

using dm2::ssd_gradient;

namespace detail {

/// Gradients of one sequence. All are overwritten, except a and skip (+=).
template <class T>
struct scan_gradient {
  sequence<T> x, b, c;  ///< as in scan_input
  T* dt;                ///< [H, L]
  T* a;                 ///< [H]
  T* skip;              ///< [H]
};

/// Scratch of scan_backward.
template <mixer_shape M, class T>
struct scan_backward_scratch {
  static constexpr std::size_t width = std::size_t(M.d_inner() / M.groups), square = std::size_t(scan_tile) * scan_tile;
  T *states, *dstate, *scores, *dscores, *decay, *product, *rows_in, *rows_out, *gathered, *u, *weights, *da;

  scan_backward_scratch(arena& a, int length) {
    std::size_t const tiles = std::size_t((length + scan_tile - 1) / scan_tile);
    std::size_t const state = std::size_t(M.d_state) * std::size_t(M.d_inner());
    states = a.template take<T>(tiles * state);  // as they enter each tile
    dstate = a.template take<T>(state);
    for (T** p : {&scores, &dscores, &decay, &product}) *p = a.template take<T>(square);
    for (T** p : {&rows_in, &rows_out, &gathered, &u}) *p = a.template take<T>(scan_tile * width);
    weights = a.template take<T>(scan_tile);
    da = a.template take<T>(std::size_t(M.heads) * scan_tile);
  }
};

/// The states that enter each tile, [tiles, G, N, H P / G].
template <mixer_shape M, class T>
void scan_states(scan_input<T> const& in, scan_backward_scratch<M, T> const& s) {
  constexpr int P = M.headdim, N = M.d_state, per_group = M.heads / M.groups, width = per_group * P;
  constexpr std::ptrdiff_t size = std::ptrdiff_t{N} * M.d_inner();
  int const length = in.x.length;
  array(s.states, size).setZero();
  for (int t0 = 0, tile = 0; t0 + scan_tile < length; t0 += scan_tile, ++tile)
    for (int g = 0; g < M.groups; ++g) {
      T const* from = s.states + tile * size + g * N * width;
      T* to = s.states + (tile + 1) * size + g * N * width;
      for (int k = 0; k < per_group; ++k) {
        int const h = g * per_group + k;
        T const *dt = in.dt + h * length + t0, *cum = in.cum + h * length + t0, end = cum[scan_tile - 1];
        sequence<T const> const x{in.x[t0] + h * P, in.x.stride, scan_tile};
        scale_tile(x, scan_tile, P, dt, cum, end, s.weights, s.rows_in + k * P, width);
        for (int i = 0; i < N; ++i)
          array(to + i * width + k * P, P) = std::exp(end) * array(from + i * width + k * P, P);
      }
      gemm<op::transposed, op::plain, true, T>({in.b[t0] + g * N, scan_tile, N, in.b.stride},
                                               {s.rows_in, scan_tile, width}, {to, N, width});
    }
}

/// da[t] += sum of gamma[i, j] over i >= t > j, for the lower triangle of gamma [n, n].
template <class T>
void rectangle_sums(T const* gamma, int n, T* da) {
  for (int i = 1; i < n; ++i) {
    T row = 0;
    for (int t = 1; t <= i; ++t) {
      row += gamma[i * n + t - 1];
      da[t] += row;
    }
  }
}

/// The gradients that pass through the states: dB, dC, U and da (=), for one tile of one group; moves dstate to the
/// tile's start.
template <mixer_shape M, class T>
void scan_state_backward(scan_input<T> const& in, sequence<T const> dy, scan_gradient<T> const& d, int t0, int group,
                         scan_backward_scratch<M, T> const& s) {
  constexpr int P = M.headdim, N = M.d_state, per_group = M.heads / M.groups, width = per_group * P;
  int const length = in.x.length, n = std::min(scan_tile, length - t0);
  T const* entering = s.states + std::ptrdiff_t{t0 / scan_tile} * N * M.d_inner() + group * N * width;
  matrix<T const> const b{in.b[t0] + group * N, n, N, in.b.stride}, c{in.c[t0] + group * N, n, N, in.c.stride};
  matrix<T const> const state{entering, N, width};
  matrix<T> const dstate{s.dstate + group * N * width, N, width};
  matrix<T> const r{s.rows_out, n, width}, scaled{s.rows_in, n, width}, before{s.gathered, n, width}, u{s.u, n, width};

  for (int k = 0; k < per_group; ++k) {
    int const h = group * per_group + k;
    T const *dt = in.dt + h * length + t0, *cum = in.cum + h * length + t0;
    sequence<T const> const x{in.x[t0] + h * P, in.x.stride, n};
    scale_tile(x, n, P, dt, cum, cum[n - 1], s.weights, scaled.data + k * P, width);
    for (int i = 0; i < n; ++i) array(r.data + i * width + k * P, P) = std::exp(cum[i]) * array(dy[t0 + i] + h * P, P);
  }
  gemm<op::plain, op::transposed, false, T>(r, state, {d.c[t0] + group * N, n, N, d.c.stride});
  gemm<op::plain, op::transposed, false, T>(scaled, dstate, {d.b[t0] + group * N, n, N, d.b.stride});
  gemm<op::plain, op::plain, false, T>(c, state, before);
  gemm<op::plain, op::plain, false, T>(b, dstate, u);
  for (int k = 0; k < per_group; ++k) {
    int const h = group * per_group + k, at = k * P;
    T const* cum = in.cum + h * length + t0;
    T* da = s.da + h * scan_tile;
    T const end = std::exp(cum[n - 1]);
    T all = 0;
    for (int i = 0; i < N; ++i) {
      auto row = array(dstate.data + i * width + at, P);
      all += (array(entering + i * width + at, P) * row).sum();
      row *= end;
    }
    all *= end;
    T later = 0, earlier = 0;  // sums over the tokens from t on, and before t
    for (int t = n - 1; t >= 0; --t)
      da[t] = all + (later += (array(r.data + t * width + at, P) * array(before.data + t * width + at, P)).sum());
    for (int t = 0; t < n; ++t) {
      da[t] += earlier;
      earlier += (array(scaled.data + t * width + at, P) * array(u.data + t * width + at, P)).sum();
      array(u.data + t * width + at, P) *= std::exp(cum[n - 1] - cum[t]);
    }
  }
  gemm<op::transposed, op::plain, true, T>(c, r, dstate);
}

/// The gradients that stay inside a tile, for one head: adds to U, da and dscores.
template <mixer_shape M, class T>
void scan_head_backward(scan_input<T> const& in, sequence<T const> dy, int t0, int h, T* u,
                        scan_backward_scratch<M, T> const& s) {
  constexpr int P = M.headdim, width = M.d_inner() / M.groups;
  int const length = in.x.length, n = std::min(scan_tile, length - t0);
  T const *dt = in.dt + h * length + t0, *cum = in.cum + h * length + t0;
  matrix<T const> const g{dy[t0] + h * P, n, P, dy.stride};
  gemm<op::plain, op::transposed, false, T>(g, {in.x[t0] + h * P, n, P, in.x.stride}, {s.product, n, n});
  for (int i = 0; i < n; ++i) {
    auto e = array(s.decay + i * n, n);
    e.head(i + 1) = (cum[i] - array(cum, i + 1)).exp();
    auto w = array(s.product + i * n, i + 1);
    w *= e.head(i + 1) * array(dt, i + 1);
    array(s.dscores + i * n, i + 1) += w;
    auto const score = array(s.scores + i * n, i + 1);
    w *= score;
    e.head(i + 1) *= score;
    e.tail(n - 1 - i).setZero();
  }
  rectangle_sums(s.product, n, s.da + h * scan_tile);
  gemm<op::transposed, op::plain, true, T>({s.decay, n, n}, g, {u, n, P, width});
}

/// dx, d dt, dA and dD from U and da, for one head of one tile.
template <mixer_shape M, class T>
void finish_head(scan_input<T> const& in, T const* a, T const* skip, sequence<T const> dy, int t0, int h, T const* u,
                 scan_backward_scratch<M, T> const& s, scan_gradient<T> const& d) {
  constexpr int P = M.headdim, width = M.d_inner() / M.groups;
  int const length = in.x.length, n = std::min(scan_tile, length - t0);
  T const* const da = s.da + h * scan_tile;
  for (int t = 0; t < n; ++t) {
    auto const x = array(in.x[t0 + t] + h * P, P), g = array(dy[t0 + t] + h * P, P);
    auto const ut = array(u + t * width, P);
    T const dt = in.dt[h * length + t0 + t];
    array(d.x[t0 + t] + h * P, P) = skip[h] * g + dt * ut;
    d.dt[h * length + t0 + t] = (x * ut).sum() + a[h] * da[t];
    d.a[h] += dt * da[t];
    d.skip[h] += (g * x).sum();
  }
}

/// The gradient of scan_forward for one sequence, on the calling thread.
///
/// Shapes   dy [L, H P]; a, skip [H]. No gradient overlaps an input.
template <mixer_shape M, class T>
void scan_backward(scan_input<T> const& in, T const* a, T const* skip, sequence<T const> dy, scan_gradient<T> const& d,
                   arena& scratch) {
  constexpr int P = M.headdim, N = M.d_state, per_group = M.heads / M.groups;
  int const length = in.x.length;
  arena_scope const scope{scratch};
  scan_backward_scratch<M, T> const s{scratch, length};
  scan_states<M>(in, s);
  array(s.dstate, N * M.d_inner()).setZero();
  for (int t0 = (length - 1) / scan_tile * scan_tile; t0 >= 0; t0 -= scan_tile) {
    int const n = std::min(scan_tile, length - t0);
    for (int g = 0; g < M.groups; ++g) {
      matrix<T const> const b{in.b[t0] + g * N, n, N, in.b.stride}, c{in.c[t0] + g * N, n, N, in.c.stride};
      scan_state_backward<M>(in, dy, d, t0, g, s);
      gemm<op::plain, op::transposed, false, T>(c, b, {s.scores, n, n});
      array(s.dscores, n * n).setZero();
      for (int k = 0; k < per_group; ++k) {
        int const h = g * per_group + k;
        scan_head_backward<M>(in, dy, t0, h, s.u + k * P, s);
        finish_head<M>(in, a, skip, dy, t0, h, s.u + k * P, s, d);
      }
      gemm<op::plain, op::plain, true, T>({s.dscores, n, n}, b, {d.c[t0] + g * N, n, N, d.c.stride});
      gemm<op::transposed, op::plain, true, T>({s.dscores, n, n}, c, {d.b[t0] + g * N, n, N, d.b.stride});
    }
  }
}

template <mixer_shape M, class T>
struct ssd_backward_scratch : ssd_scratch<M, T> {
  T* ddt;

  ssd_backward_scratch(arena& a, int length) : ssd_scratch<M, T>{a, length} {
    ddt = a.template take<T>(std::size_t(M.heads) * std::size_t(length));
  }
};

/// The gradient of one sequence; the sums for A and D go to part [2, H].
template <mixer_shape M, class T>
void ssd_sequence_backward(ssd_input<M, T> const& in, rows<T const, M.d_inner()> dy, ssd_gradient<M, T> const& grad,
                           int index, T* part, arena& scratch) {
  constexpr int width = M.d_inner(), state = M.groups * M.d_state, H = M.heads;
  int const length = in.length;
  std::ptrdiff_t const first = std::ptrdiff_t{index} * length;
  arena_scope const scope{scratch};
  ssd_backward_scratch<M, T> const s{scratch, length};
  scan_gradient<T> const d{{grad.x.data + first * width, width, length},
                           {grad.b.data + first * state, state, length},
                           {grad.c.data + first * state, state, length},
                           s.ddt,
                           part,
                           part + H};
  scan_backward<M>(scan_sequence(in, index, s), in.a.data, in.d.data,
                   sequence<T const>{dy.data + first * width, width, length}, d, scratch);
  for (int t = 0; t < length; ++t)
    for (int h = 0; h < H; ++h) grad.dt.data[(first + t) * H + h] = s.ddt[h * length + t];
}
}  // namespace detail

/// The gradient of ssd.
///
/// Shapes   ssd_input, ssd_gradient; dy [B L, H P].
/// Writes   as ssd_gradient says; no gradient overlaps an input.
/// Throws   shape_error if the operands disagree; nothing is written then.
template <mixer_shape M, class T>
void ssd_backward(context<T>& ctx, ssd_input<M, T> const& in, std::type_identity_t<rows<T const, M.d_inner()>> dy,
                  ssd_gradient<M, T> const& grad) {
  constexpr int H = M.heads, parts = detail::gradient_parts;
  int const count = in.sequences();
  require_extent("ssd_backward.dy rows", dy.count, in.x.count);
  require_extent("ssd_backward.grad.x rows", grad.x.count, in.x.count);
  require_extent("ssd_backward.grad.dt rows", grad.dt.count, in.x.count);
  require_extent("ssd_backward.grad.b rows", grad.b.count, in.x.count);
  require_extent("ssd_backward.grad.c rows", grad.c.count, in.x.count);
  if (!ctx.reserve(2 * H * parts * sizeof(T) + arena::alignment,
                   planned_bytes<detail::ssd_backward_scratch<M, T>>(in.length) +
                       planned_bytes<detail::scan_backward_scratch<M, T>>(in.length)))
    return;
  arena_scope const scope{ctx.shared()};
  T* const sums = ctx.shared().template take<T>(std::size_t(2 * H * parts));
  ctx.for_each(parts, [&](int k, arena& scratch) {
    T* const part = sums + 2 * H * k;
    array(part, 2 * H).setZero();
    for (int i = k; i < count; i += parts) detail::ssd_sequence_backward(in, dy, grad, i, part, scratch);
  });
  for (int k = 0; k < parts; ++k) {
    array(grad.a.data, H) += array(sums + 2 * H * k, H);
    array(grad.d.data, H) += array(sums + 2 * H * k + H, H);
  }
}

}  // namespace dm2::cpu
