/// @file
/// The bidirectional Mamba-2 mixer between its projections, forward: convolution, SiLU, scan, gate and norm of both
/// directions.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/activation.hpp>
#include <dm2/cpu/causal_conv1d.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/ssd.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dm2::cpu {
namespace detail {

/// Where one direction finds its channels. The second direction of the published variant reads all channels in reverse;
/// with its parameters reversed instead, it is an ordinary direction over the mirrored slices [dt | C | B | x | z].
template <mixer_shape M>
struct direction_layout {
  bool reverse_channels, reverse_tokens;
  int z, conv, dt;  ///< in the projection
  int x, b, c;      ///< in the convolution's output

  static constexpr int state = M.groups * M.d_state;

  explicit direction_layout(bool second)
      : reverse_channels{second && M.variant == mixer_variant::published},
        reverse_tokens{second && M.variant == mixer_variant::bidirectional},
        z{reverse_channels ? M.heads + M.conv_dim() : 0},
        conv{reverse_channels ? M.heads : M.d_inner()},
        dt{reverse_channels ? 0 : M.d_inner() + M.conv_dim()},
        x{reverse_channels ? 2 * state : 0},
        b{reverse_channels ? state : M.d_inner()},
        c{reverse_channels ? 0 : M.d_inner() + state} {}
};

/// One direction's parameters in the order in which its channels are walked.
template <mixer_shape M, class T>
struct arranged_direction {
  T *taps, *conv_bias, *dt_bias, *a, *d, *norm;

  explicit arranged_direction(arena& s) {
    taps = s.template take<T>(std::size_t(M.conv_dim()) * M.d_conv);
    conv_bias = s.template take<T>(M.conv_dim());
    dt_bias = s.template take<T>(M.heads);
    a = s.template take<T>(M.heads);
    d = s.template take<T>(M.heads);
    norm = s.template take<T>(M.d_inner());
  }

  void fill(mixer_direction<M, T const> const& p, bool reversed) const {
    auto const copy = [&](T const* from, int n, T* to) {
      reversed ? std::reverse_copy(from, from + n, to) : std::copy(from, from + n, to);
    };
    arrange_taps(p.conv.data, M.conv_dim(), M.d_conv, reversed, taps);
    copy(p.conv_bias.data, M.conv_dim(), conv_bias);
    copy(p.dt_bias.data, M.heads, dt_bias);
    copy(p.a_log.data, M.heads, a);
    for (int h = 0; h < M.heads; ++h) a[h] = -std::exp(a[h]);
    copy(p.d.data, M.heads, d);
    copy(p.norm.data, M.d_inner(), norm);
  }
};

/// Both directions, as they are walked.
template <mixer_shape M, class T>
struct arranged_mixer {
  direction_layout<M> layouts[2]{direction_layout<M>{false}, direction_layout<M>{true}};
  arranged_direction<M, T> directions[2];

  explicit arranged_mixer(arena& s) : directions{arranged_direction<M, T>{s}, arranged_direction<M, T>{s}} {}
  arranged_mixer(arena& s, mixer_parameters<M, T const> const& p) : arranged_mixer{s} {
    directions[0].fill(p.forward, false);
    directions[1].fill(p.backward, layouts[1].reverse_channels);
  }
};

/// Intermediate results of one direction of one sequence, in scratch memory.
template <mixer_shape M, class T>
struct direction_scratch {
  T* conv;  ///< [L, conv_dim], before SiLU
  T* u;     ///< [L, conv_dim], after
  T* dt;    ///< [H, L]
  T* cum;   ///< [H, L]
  T* y;     ///< [L, d_inner]

  direction_scratch(arena& s, int length) {
    std::size_t const n = std::size_t(length);
    conv = s.template take<T>(n * M.conv_dim());
    u = s.template take<T>(n * M.conv_dim());
    dt = s.template take<T>(n * M.heads);
    cum = s.template take<T>(n * M.heads);
    y = s.template take<T>(n * M.d_inner());
  }

  [[nodiscard]] scan_input<T> input(direction_layout<M> const& at, int length) const {
    sequence<T const> const all{u, M.conv_dim(), length};
    return {all.from(at.x), all.from(at.b), all.from(at.c), dt, cum};
  }
};

/// The tokens of one sequence in a direction's order.
template <class T>
sequence<T> walk(T* first, std::ptrdiff_t stride, int length, bool reversed) {
  return reversed ? sequence<T>{first + (length - 1) * stride, -stride, length} : sequence<T>{first, stride, length};
}

/// Convolution, SiLU, softplus and scan of one direction of one sequence; everything is left in s.
template <mixer_shape M, class T>
void direction_forward(sequence<T const> zxbcdt, direction_layout<M> const& at, arranged_direction<M, T> const& p,
                       direction_scratch<M, T> const& s, arena& scratch) {
  int const length = zxbcdt.length;
  causal_conv1d(zxbcdt.from(at.conv), M.conv_dim(), M.d_conv, p.taps, p.conv_bias,
                sequence<T>{s.conv, M.conv_dim(), length});
  silu(s.conv, s.u, std::ptrdiff_t{length} * M.conv_dim());
  for (int t = 0; t < length; ++t)
    for (int h = 0; h < M.heads; ++h) s.dt[h * length + t] = softplus(zxbcdt[t][at.dt + h] + p.dt_bias[h]);
  cumulative_decay(s.dt, p.a, M.heads, length, s.cum);
  scan_forward<M>(s.input(at, length), p.d, sequence<T>{s.y, M.d_inner(), length}, scan_form::automatic, scratch);
}

/// g = y silu(z) / sqrt(mean of its square + 1e-5) norm, the mean inside each group of channels.
template <mixer_shape M, class T>
void gate_and_norm(T const* y, sequence<T const> z, T const* norm, sequence<T> g) {
  constexpr int width = M.d_inner() / M.groups;
  for (int t = 0; t < z.length; ++t)
    for (int c = 0; c < M.d_inner(); c += width) {
      auto const gate = array(z[t] + c, width);
      auto out = array(g[t] + c, width);
      out = array(y + t * M.d_inner() + c, width) * gate / (T(1) + (-gate).exp());
      out *= T(1) / std::sqrt(out.square().sum() / T(width) + T(1e-5)) * array(norm + c, width);
    }
}

}  // namespace detail

/// The mixer between its input and output projections, both directions.
///
/// Direction d of sequence b: u = silu(conv(xBC)), y = scan(u) + D x, g = RMSNorm(y silu(z)) norm.
///
/// Shapes   zxbcdt [B L, projected], channels [z, x, B, C, dt]; g [B L, 2 d_inner], the first direction's channels,
///          then the second's. In the published variant the second's are in reverse, as it computes them:
///          fold_output_projection accounts for that. `length` = L tokens a sequence, any L >= 1.
/// Writes   g (=), which does not overlap zxbcdt. Nothing is saved: backward computes the inside again.
/// Throws   shape_error if the rows disagree; nothing is written then.
/// Source   Dao & Gu 2024 (arXiv 2405.21060); the directions: docs/model.md.
template <mixer_shape M, class T>
void mixer_core(context<T>& ctx, std::type_identity_t<rows<T const, M.projected()>> zxbcdt,
                mixer_parameters<M, T const> const& p, std::type_identity_t<rows<T, 2 * M.d_inner()>> g, int length) {
  using namespace detail;
  int const count = whole_sequences("mixer_core.zxbcdt", zxbcdt.count, length);
  require_extent("mixer_core.g rows", g.count, zxbcdt.count);
  bool const chunked = use_chunks(M, length, scan_form::automatic);
  if (!ctx.reserve(planned_bytes<arranged_mixer<M, T>>(),
                   planned_bytes<direction_scratch<M, T>>(length) + planned_bytes<scan_scratch<M, T>>(length, chunked)))
    return;
  arena_scope const scope{ctx.shared()};
  arranged_mixer<M, T> const arranged{ctx.shared(), p};
  ctx.for_each(2 * count, [&](int task, arena& scratch) {
    int const second = task % 2;
    std::ptrdiff_t const row = std::ptrdiff_t{task / 2} * length;
    direction_layout<M> const& at = arranged.layouts[second];
    direction_scratch<M, T> const s{scratch, length};
    auto const in = walk(zxbcdt.data + row * M.projected(), M.projected(), length, at.reverse_tokens);
    direction_forward(in, at, arranged.directions[second], s, scratch);
    gate_and_norm<M>(
        s.y, in.from(at.z), arranged.directions[second].norm,
        walk(g.data + row * 2 * M.d_inner() + second * M.d_inner(), 2 * M.d_inner(), length, at.reverse_tokens));
  });
}

}  // namespace dm2::cpu
