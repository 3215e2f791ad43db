/// @file
/// The mixer's norm, applied to rows that were left before it.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/gate.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>

namespace dm2::cuda::detail::mixer_core {

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

}  // namespace dm2::cuda::detail::mixer_core
