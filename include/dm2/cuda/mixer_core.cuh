/// @file
/// The bidirectional Mamba-2 mixer between its projections: convolution, SiLU, scan, gate and norm of both directions.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/mixer_core/evaluation.cuh>
#include <dm2/cuda/mixer_core/general.cuh>
#include <dm2/cuda/mixer_core/scale_by_squares.cuh>
#include <dm2/cuda/mixer_core/segments.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// From the input projection to what the output projections read, for both directions of the mixer.
///
/// Direction d of sequence b: u = silu(conv(xBC)), y = scan(u) + D x, g = RMSNorm(y silu(z)) norm.
///
/// Shapes   zxbcdt [B L, projected], channels [z, x, B, C, dt]; g [B L, 2 d_inner], the first direction's channels,
///          then the second's, those in reverse in the published variant. `length` = L, any L >= 1.
/// Writes   g (=), which does not overlap zxbcdt; where it is not null, factors [B L, 2, groups] (=): what each
///          direction's groups are normed with, 1 / sqrt(mean square + 1e-5), for mixer_core_backward.
/// Stream   the context's; no synchronisation. One kernel for 16-bit numbers, a number of heads that 4 divides, of a
///          multiple of 8 channels (of 16 above 64) up to 128, groups of a multiple of 8 channels, a state of 16, 32,
///          64 or 128, at most 4 taps, and operands, taps and norms at multiples of 16 bytes; composed otherwise.
///          Beyond 224 tokens few sequences take three kernels.
/// Range    in bfloat16 up to 224 tokens x, B, C and scores are halves (packed.cuh): what is beyond 65504 of the
///          projection counts as that, and a score times its step and decay must be below it.
/// Throws   shape_error if the rows disagree; nothing is written then.
/// Source   Dao & Gu 2024 (arXiv 2405.21060).
template <mixer_shape M, precision P>
void mixer_core(context<P>& ctx, std::type_identity_t<rows<element<P> const, M.projected(), space::device>> zxbcdt,
                mixer_parameters<M, float const, space::device> const& p,
                std::type_identity_t<rows<element<P>, 2 * M.d_inner(), space::device>> g, int length,
                float* factors = nullptr) {
  int const sequences = whole_sequences("mixer_core.zxbcdt", zxbcdt.count, length);
  require_extent("mixer_core.g rows", g.count, zxbcdt.count);
  using Tr = detail::mixer_core::traits<element<P>, M>;
  if constexpr (Tr::possible) {
    constexpr int packet = 16 / int(sizeof(element<P>));
    if (zxbcdt.count != 0 && detail::mixer_core::fits<element<P>, M>(ctx.device(), length) &&
        detail::mixer_core::aligned(p) && detail::packets_at<packet>(zxbcdt.data) &&
        detail::packets_at<packet>(g.data)) {
      using scratch_memory = detail::mixer_core::scratch<element<P>, M>;
      std::size_t const states = detail::mixer_core::state_packets<element<P>, M>(ctx.device(), sequences, length);
      if (!ctx.reserve(planned_bytes<scratch_memory>(zxbcdt.count, length, states) + arena::alignment)) return;
      arena_scope const scope{ctx.shared()};
      scratch_memory scratch{ctx.shared(), zxbcdt.count, length, states};
      scratch.factors = factors;
      if (!detail::mixer_core::launch_tensor<P, M>(ctx, zxbcdt.data, p, g.data, scratch, sequences, length, true))
        detail::mixer_core::scale_by_squares<P, M>(ctx, g.data, scratch.squares, p.forward.norm.data,
                                                   p.backward.norm.data, int(zxbcdt.count), factors);
      return;
    }
  }
  detail::mixer_core::launch_general<M>(ctx, zxbcdt, p, g, length, factors);
}

}  // namespace dm2::cuda
