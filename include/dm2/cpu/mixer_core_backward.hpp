/// @file
/// The bidirectional Mamba-2 mixer between its projections, backward.
#pragma once

#include <dm2/cpu/gradient_parts.hpp>
#include <dm2/cpu/mixer_core.hpp>
#include <dm2/cpu/ssd_backward.hpp>

#include <algorithm>
#include <cstddef>

namespace dm2::cpu {
namespace detail {

/// Gradient of one direction's parameters in the order in which its channels are walked, as one run of numbers.
template <mixer_shape M>
struct arranged_gradient {
  static constexpr int taps = 0, conv_bias = taps + M.conv_dim() * M.d_conv, dt_bias = conv_bias + M.conv_dim(),
                       a = dt_bias + M.heads, d = a + M.heads, norm = d + M.heads, size = norm + M.d_inner();
};

/// Scratch of one direction's backward, beside direction_scratch.
template <mixer_shape M, class T>
struct direction_backward_scratch {
  T *dy, *du, *ddt, *dconv;

  direction_backward_scratch(arena& s, int length) {
    std::size_t const n = std::size_t(length);
    dy = s.template take<T>(n * M.d_inner());
    du = s.template take<T>(n * M.conv_dim());
    ddt = s.template take<T>(n * M.heads);
    dconv = s.template take<T>(n * M.conv_dim());
  }
};

/// With v = y silu(z), r = 1 / sqrt(mean v^2 + 1e-5) in its group:
///     dnorm += dg v r,  dv = r (norm dg - v r^2 mean(norm dg v)),  dy = dv silu(z),  dz += dv y silu'(z).
template <mixer_shape M, class T>
void gate_and_norm_backward(T const* y, sequence<T const> z, T const* norm, sequence<T const> dg, T* dy, sequence<T> dz,
                            T* dnorm) {
  constexpr int width = M.d_inner() / M.groups;
  using values = Eigen::Array<T, width, 1>;
  for (int t = 0; t < z.length; ++t)
    for (int c = 0; c < M.d_inner(); c += width) {
      auto const gate = array(z[t] + c, width), out = array(y + t * M.d_inner() + c, width);
      auto const grad = array(dg[t] + c, width);
      values const sigmoid = (T(1) + (-gate).exp()).inverse();
      values const v = out * gate * sigmoid;
      T const r = T(1) / std::sqrt(v.square().sum() / T(width) + T(1e-5));
      array(dnorm + c, width) += grad * v * r;
      values dv = grad * array(norm + c, width);
      T const mean = (dv * v).sum() / T(width);
      dv = r * (dv - v * (r * r * mean));
      array(dy + t * M.d_inner() + c, width) = dv * gate * sigmoid;
      array(dz[t] + c, width) += dv * out * sigmoid * (T(1) + gate * (T(1) - sigmoid));
    }
}

/// The gradient of one direction of one sequence: adds to dzxbcdt and to the arranged gradient `sum`.
template <mixer_shape M, class T>
void direction_backward(sequence<T const> zxbcdt, direction_layout<M> const& at, arranged_direction<M, T> const& p,
                        sequence<T const> dg, sequence<T> dzxbcdt, T* sum, arena& scratch) {
  using part = arranged_gradient<M>;
  int const length = zxbcdt.length;
  std::ptrdiff_t const n = std::ptrdiff_t{length} * M.conv_dim();
  arena_scope const scope{scratch};
  direction_scratch<M, T> const s{scratch, length};
  direction_backward_scratch<M, T> const b{scratch, length};
  direction_forward(zxbcdt, at, p, s, scratch);
  gate_and_norm_backward<M>(s.y, zxbcdt.from(at.z), p.norm, dg, b.dy, dzxbcdt.from(at.z), sum + part::norm);

  sequence<T> const du{b.du, M.conv_dim(), length};
  scan_backward<M>(s.input(at, length), p.a, p.d, sequence<T const>{b.dy, M.d_inner(), length},
                   scan_gradient<T>{du.from(at.x), du.from(at.b), du.from(at.c), b.ddt, sum + part::a, sum + part::d},
                   scratch);
  for (int t = 0; t < length; ++t)
    for (int h = 0; h < M.heads; ++h) {
      T const raw = b.ddt[h * length + t] * softplus_slope(zxbcdt[t][at.dt + h] + p.dt_bias[h]);
      dzxbcdt[t][at.dt + h] += raw;
      sum[part::dt_bias + h] += raw;
    }
  silu_backward(s.conv, b.du, b.dconv, n);
  causal_conv1d_backward(zxbcdt.from(at.conv), M.conv_dim(), M.d_conv, p.taps,
                         sequence<T const>{b.dconv, M.conv_dim(), length}, dzxbcdt.from(at.conv), sum + part::taps,
                         sum + part::conv_bias);
}

/// Adds an arranged gradient to the parameters' own, dA_log = A dA.
template <mixer_shape M, class T>
void add_arranged(T const* sum, T const* a, bool reversed, mixer_direction<M, T> const& grad) {
  using part = arranged_gradient<M>;
  auto const add = [&](T const* from, int n, T* to) {
    for (int i = 0; i < n; ++i) to[reversed ? n - 1 - i : i] += from[i];
  };
  add_arranged_taps(sum + part::taps, M.conv_dim(), M.d_conv, reversed, grad.conv.data);
  add(sum + part::conv_bias, M.conv_dim(), grad.conv_bias.data);
  add(sum + part::dt_bias, M.heads, grad.dt_bias.data);
  for (int h = 0; h < M.heads; ++h) grad.a_log.data[reversed ? M.heads - 1 - h : h] += a[h] * sum[part::a + h];
  add(sum + part::d, M.heads, grad.d.data);
  add(sum + part::norm, M.d_inner(), grad.norm.data);
}

}  // namespace detail

/// The gradient of mixer_core. Intermediate results are computed again from zxbcdt.
///
/// Shapes   as mixer_core; dg [B L, 2 d_inner]; dzxbcdt [B L, projected].
/// Writes   dzxbcdt (=); grad (+=). In the published variant grad.backward.d is the first direction's d.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <mixer_shape M, class T>
void mixer_core_backward(context<T>& ctx, std::type_identity_t<rows<T const, M.projected()>> zxbcdt,
                         mixer_parameters<M, T const> const& p, std::type_identity_t<rows<T const, 2 * M.d_inner()>> dg,
                         std::type_identity_t<rows<T, M.projected()>> dzxbcdt, mixer_parameters<M, T> const& grad,
                         int length) {
  using namespace detail;
  constexpr int size = arranged_gradient<M>::size;
  int const count = whole_sequences("mixer_core_backward.zxbcdt", zxbcdt.count, length);
  require_extent("mixer_core_backward.dg rows", dg.count, zxbcdt.count);
  require_extent("mixer_core_backward.dzxbcdt rows", dzxbcdt.count, zxbcdt.count);
  bool const chunked = use_chunks(M, length, scan_form::automatic);
  if (!ctx.reserve(planned_bytes<arranged_mixer<M, T>>() + 2 * gradient_parts * size * sizeof(T) + arena::alignment,
                   planned_bytes<direction_scratch<M, T>>(length) +
                       planned_bytes<direction_backward_scratch<M, T>>(length) +
                       std::max(planned_bytes<scan_scratch<M, T>>(length, chunked),
                                planned_bytes<scan_backward_scratch<M, T>>(length))))
    return;
  arena_scope const scope{ctx.shared()};
  arranged_mixer<M, T> const arranged{ctx.shared(), p};
  T* const sums = ctx.shared().template take<T>(std::size_t(2 * gradient_parts) * size);
  ctx.for_each(gradient_parts, [&](int k, arena& scratch) {
    T* const sum = sums + 2 * k * size;
    array(sum, 2 * size).setZero();
    for (int i = k; i < count; i += gradient_parts) {
      std::ptrdiff_t const row = std::ptrdiff_t{i} * length;
      array(dzxbcdt.data + row * M.projected(), std::ptrdiff_t{length} * M.projected()).setZero();
      for (int second = 0; second < 2; ++second) {
        direction_layout<M> const& at = arranged.layouts[second];
        auto const tokens = [&](auto* first, int width, int channel) {
          return walk(first + row * width + channel, width, length, at.reverse_tokens);
        };
        direction_backward(tokens(zxbcdt.data, M.projected(), 0), at, arranged.directions[second],
                           tokens(dg.data, 2 * M.d_inner(), second * M.d_inner()),
                           tokens(dzxbcdt.data, M.projected(), 0), sum + second * size, scratch);
      }
    }
  });
  for (int k = 1; k < gradient_parts; ++k) array(sums, 2 * size) += array(sums + 2 * k * size, 2 * size);
  add_arranged(sums, arranged.directions[0].a, false, grad.forward);
  add_arranged(sums + size, arranged.directions[1].a, arranged.layouts[1].reverse_channels, grad.backward);
}

}  // namespace dm2::cpu
