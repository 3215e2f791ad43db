/// @file
/// The gradient of root-mean-square normalisation.
///
/// Saved: x and 1 / root mean square, 4 (C + 1) bytes a row. Recomputed: the normed rows.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/rms_norm_backward_kernel.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// Blocks of the kernel, each of which writes a row of partial sums.
template <class Tr>
int norm_parts(std::size_t count) {
  return int(std::clamp<std::size_t>((count + Tr::warps - 1) / Tr::warps, 1, std::size_t{most_parts}));
}

/// Bytes of scratch that norm_gradient takes.
template <int C>
std::size_t rms_norm_backward_scratch(std::size_t count) {
  int const parts = std::max(norm_parts<rms_norm_backward_traits<C, norm_packet(C)>>(count),
                             norm_parts<rms_norm_backward_traits<C, 1>>(count));
  return std::size_t(parts) * C * sizeof(float) + arena::alignment;
}

template <int C, int N, bool Add, class G, class U>
void launch_norm_gradient(cudaStream_t stream, arena& scratch, norm_gradient_call<G, U> call, float* dw) {
  using traits = rms_norm_backward_traits<C, N>;
  arena_scope const scope{scratch};
  int const parts = norm_parts<traits>(call.count);
  call.parts = scratch.take<float>(std::size_t(parts) * C);
  launch("rms_norm_backward", rms_norm_backward_kernel<traits, Add, G, U>,
         {unsigned(parts), traits::threads, traits::bytes}, stream, call);
  add_parts("rms_norm_backward: weight", stream, call.parts, parts, C, dw);
}

/// The gradient, and whatever else call asks for in the same pass; Add: call.dx is added to, not overwritten. The caller
/// has reserved rms_norm_backward_scratch.
template <int C, bool Add, class G, class U>
void norm_gradient(cudaStream_t stream, arena& scratch, norm_gradient_call<G, U> const& call, float* dw) {
  if (call.count == 0) return;
  constexpr int n = norm_packet(C);
  if (packets_at<n>(call.x) && packets_at<n>(call.dy) && packets_at<n>(call.dx) && packets_at<n>(call.normed) &&
      packets_at<n>(call.rounded) && packets_at<n>(call.w))
    launch_norm_gradient<C, n, Add>(stream, scratch, call, dw);
  else
    launch_norm_gradient<C, 1, Add>(stream, scratch, call, dw);
}

}  // namespace detail

/// With g = dy w:  dx += rstd g - x rstd^3 mean_c(g x),  dw += sum_r dy x rstd
///
/// Shapes   x, dy, dx [R, C]; rstd [R] from the forward; w, dw [C]. dy is of the context's element, or float.
/// Writes   dx (+=): on the residual stream the norm's gradient joins what passes beside it; dw (+=).
/// Sums     float, in a fixed order: two runs give the same bits.
/// Stream   the context's; no synchronisation. x, dy and dx are read once and dx is written once.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int C, class G>
void rms_norm_backward(context<P>& ctx, std::type_identity_t<rows<float const, C, space::device>> x,
                       block<float const, space::device, C> w, float const* rstd, rows<G, C, space::device> dy,
                       std::type_identity_t<rows<float, C, space::device>> dx, block<float, space::device, C> dw) {
  using gradient = std::remove_const_t<G>;
  static_assert(std::is_same_v<gradient, element<P>> || std::is_same_v<gradient, float>,
                "dm2::cuda::rms_norm_backward: dy must be of the context's element, or float");
  require_extent("rms_norm_backward.dy rows", dy.count, x.count);
  require_extent("rms_norm_backward.dx rows", dx.count, x.count);
  if (!ctx.reserve(detail::rms_norm_backward_scratch<C>(x.count))) return;
  detail::norm_gradient_call<gradient, element<P>> const call{x.data,  w.data,  rstd,    dy.data, dx.data,
                                                              nullptr, nullptr, nullptr, x.count};
  detail::norm_gradient<C, true>(ctx.stream(), ctx.shared(), call, dw.data);
}

}  // namespace dm2::cuda
