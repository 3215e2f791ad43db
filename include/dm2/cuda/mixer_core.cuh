/// @file
/// The bidirectional Mamba-2 mixer between its projections: convolution, SiLU, scan, gate and norm of both directions.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/few.cuh>
#include <dm2/cuda/mixer_core/few_input.cuh>
#include <dm2/cuda/mixer_core/gate.cuh>
#include <dm2/cuda/mixer_core/general.cuh>
#include <dm2/cuda/mixer_core/segments.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::cuda {
namespace detail::mixer_core {

/// g *= 1 / sqrt(mean square of its group of a half + 1e-5), which goes to factors [count, 2, groups] as well, and
/// norm; neither where it is null. A warp a row.
template <class Tr>
__global__ void __launch_bounds__(256)
    scale_by_squares_kernel(typename Tr::element* g, float const* squares, float const* norm, float const* norm_b,
                            float* factors, int count) {
  using T = typename Tr::element;
  int const row = int(blockIdx.x) * 8 + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (row >= count) return;
  for (int part = 0; part < 2 * Tr::groups; ++part) {
    int const second = part / Tr::groups, begin = part % Tr::groups * Tr::group;
    std::size_t const half = std::size_t(row) * 2 + std::size_t(second);
    float const* const own = squares + half * Tr::units + part % Tr::groups * Tr::group_units;
    float const scale = factor_of_squares<Tr::group>(sum_of_units<Tr::group_units>(own));
    float const* const w = second == 0 ? norm : norm_b;
    if (factors != nullptr && lane == 0) factors[half * Tr::groups + std::size_t(part % Tr::groups)] = scale;
    for (int c = begin + lane * 4; c < begin + Tr::group; c += 128) {
      packed<4>& v = *reinterpret_cast<packed<4>*>(g + half * Tr::inner + std::size_t(c));
      float2 a = unpack<T>(v.v[0]), b = unpack<T>(v.v[1]);
      bool const reversed = second == 1 && Tr::reverse_channels;
      auto const at = [&](int i) {
        return w == nullptr ? scale : weighted<T>(scale, w[reversed ? Tr::inner - 1 - (c + i) : c + i]);
      };
      a.x *= at(0), a.y *= at(1), b.x *= at(2), b.y *= at(3);
      v = {{pack<T>(a.x, a.y), pack<T>(b.x, b.y)}};
    }
  }
}

/// The factor that launch_tensor left out, and the norms' weights where they are not null.
template <precision P, mixer_shape M>
void scale_by_squares(context<P>& ctx, element<P>* g, float const* squares, float const* norm, float const* norm_b,
                      int count, float* factors = nullptr) {
  using Tr = traits<element<P>, M>;
  launch("mixer_core: norm", scale_by_squares_kernel<Tr>, {unsigned((count + 7) / 8), 256}, ctx.stream(), g, squares,
         norm, norm_b, factors, count);
}

}  // namespace detail::mixer_core

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
