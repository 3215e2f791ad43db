/// @file
/// The bidirectional Mamba-2 mixer between its projections, composed: for any shape, length and precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/mixer_core/general.cuh>
#include <dm2/cuda/sequences.cuh>
#include <dm2/cuda/ssd/general.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail {

/// What one direction keeps between its kernels, and the second then overwrites: for Tiny in float, 4.1 KB a token.
template <mixer_shape M, class T>
struct direction_scratch {
  scan_arrays<T> in;
  T* y;  ///< [B L, d_inner], what the scan gives

  direction_scratch(arena& s, std::size_t count) {
    constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
    in.x = s.template take<T>(count * inner);
    in.b = s.template take<T>(count * states);
    in.c = s.template take<T>(count * states);
    in.dt = s.template take<float>(count * M.heads);
    in.a = s.template take<float>(M.heads);
    in.d = s.template take<float>(M.heads);
    y = s.template take<T>(count * inner);
  }
};

template <bool Second, mixer_shape M, precision P>
void run_direction(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                   mixer_direction<M, float const, space::device> const& p,
                   rows<element<P>, 2 * M.d_inner(), space::device> g, int length,
                   direction_scratch<M, element<P>> const& s) {
  using T = element<P>;
  using traits = direction_traits<M, Second>;
  constexpr int inner = traits::inner, states = traits::states;
  std::size_t const n = zxbcdt.count;
  direction_parameters const raw{p.conv.data, p.conv_bias.data, p.dt_bias.data, p.a_log.data, p.d.data, p.norm.data};
  int const parts = (length + traits::tokens - 1) / traits::tokens;
  dim3 const grid(unsigned(n / std::size_t(length)) * unsigned(parts),
                  blocks_for(traits::convolved + traits::heads, traits::threads));
  launch("mixer_core: convolution", scan_inputs_kernel<traits, T>, {grid, traits::threads}, ctx.stream(), zxbcdt.data,
         raw, s.in, length, parts);
  scan_operands<M, T> const operands{rows<T const, inner, space::device>{s.in.x, n},
                                     rows<float const, M.heads, space::device>{s.in.dt, n},
                                     block<float const, space::device, M.heads>{s.in.a},
                                     rows<T const, states, space::device>{s.in.b, n},
                                     rows<T const, states, space::device>{s.in.c, n},
                                     block<float const, space::device, M.heads>{s.in.d},
                                     length};
  scan_general<M>(ctx, operands, rows<T, inner, space::device>{s.y, n});
  launch("mixer_core: gate and norm", gate_and_norm_kernel<traits, T>,
         {blocks_for(n * traits::groups, traits::warps), traits::threads}, ctx.stream(), s.y, zxbcdt.data, p.norm.data,
         g.data, n, length);
}

/// From the input projection to what the output projections read, for both directions of the mixer.
///
/// Direction d of sequence b: u = silu(conv(xBC)), y = scan(u) + D x, g = RMSNorm(y silu(z)) norm. x, B, C and y are
/// rounded to the context's element between the kernels.
///
/// Shapes   zxbcdt [B L, projected], channels [z, x, B, C, dt]; g [B L, 2 d_inner], the first direction's channels,
///          then the second's. In the published variant the second's are in reverse, as it computes them:
///          fold_output_projection accounts for that. `length` = L tokens a sequence, any L >= 1.
/// Writes   g (=), which does not overlap zxbcdt.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <mixer_shape M, precision P>
void mixer_core_general(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                        mixer_parameters<M, float const, space::device> const& p,
                        rows<element<P>, 2 * M.d_inner(), space::device> g, int length) {
  static_cast<void>(whole_sequences("mixer_core.zxbcdt", zxbcdt.count, length));
  require_extent("mixer_core.g rows", g.count, zxbcdt.count);
  if (!ctx.reserve(planned_bytes<direction_scratch<M, element<P>>>(zxbcdt.count)) || zxbcdt.count == 0) return;
  arena_scope const scope{ctx.shared()};
  direction_scratch<M, element<P>> const scratch{ctx.shared(), zxbcdt.count};
  run_direction<false, M>(ctx, zxbcdt, p.forward, g, length, scratch);
  run_direction<true, M>(ctx, zxbcdt, p.backward, g, length, scratch);
}

}  // namespace dm2::cuda::detail
