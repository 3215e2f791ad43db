/// @file
/// The gated MLP between its projections, and its gradient.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// A thread N neighbouring channels of a row.
template <int C, int N, class T>
__global__ void __launch_bounds__(256) gated_activation_kernel(T const* input, T* y, std::size_t count) {
  std::size_t const at = (std::size_t{blockIdx.x} * 256 + threadIdx.x) * N;
  if (at >= count * C) return;
  T const* const from = input + at / C * (2 * C) + at % C;
  packet<T, N> const x = load_packet<N>(from), gate = load_packet<N>(from + C);
  packet<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.v[i] = from_float<T>(to_float(x.v[i]) * silu(to_float(gate.v[i])));
  store_packet<N>(y + at, out);
}

template <int C, int N, class T>
void launch_gated_activation(cudaStream_t stream, T const* input, T* y, std::size_t count) {
  launch("gated_activation", gated_activation_kernel<C, N, T>, {blocks_for(count * C / N, 256), 256}, stream, input, y,
         count);
}

}  // namespace detail

/// y = x silu(gate), [x, gate] = the two halves of a row.
///
/// Shapes   input [R, 2 C]; y [R, C]. Writes y (=), which does not overlap the input.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int C>
void gated_activation(context<P>& ctx, std::type_identity_t<rows<element<P> const, 2 * C, space::device>> input,
                      rows<element<P>, C, space::device> y) {
  require_extent("gated_activation.y rows", y.count, input.count);
  if (!ctx.reserve(0) || y.count == 0) return;
  constexpr int whole = 16 / int(sizeof(element<P>)), n = C % whole == 0 ? whole : 1;  // 16 bytes
  if (detail::packets_at<n>(input.data) && detail::packets_at<n>(y.data))
    detail::launch_gated_activation<C, n>(ctx.stream(), input.data, y.data, y.count);
  else
    detail::launch_gated_activation<C, 1>(ctx.stream(), input.data, y.data, y.count);
}

namespace detail {

/// A thread N neighbouring channels of a row, which it reads before it writes: dinput may be input.
template <int C, int N, class T>
__global__ void __launch_bounds__(256)
    gated_activation_backward_kernel(T const* input, T const* dy, T* dinput, std::size_t count) {
  std::size_t const at = (std::size_t{blockIdx.x} * 256 + threadIdx.x) * N;
  if (at >= count * C) return;
  std::size_t const x_at = at / C * (2 * C) + at % C;
  packet<T, N> const x = load_packet<N>(input + x_at), gate = load_packet<N>(input + x_at + C);
  packet<T, N> const g = load_packet<N>(dy + at);
  packet<T, N> dx, dgate;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float const z = to_float(gate.v[i]), s = 1.f / (1.f + __expf(-z)), gs = to_float(g.v[i]) * s;
    dx.v[i] = from_float<T>(gs * z);
    dgate.v[i] = from_float<T>(gs * to_float(x.v[i]) * fmaf(z, 1.f - s, 1.f));
  }
  store_packet<N>(dinput + x_at, dx);
  store_packet<N>(dinput + x_at + C, dgate);
}

template <int C, int N, class T>
void launch_gated_activation_backward(cudaStream_t stream, T const* input, T const* dy, T* dinput, std::size_t count) {
  launch("gated_activation_backward", gated_activation_backward_kernel<C, N, T>,
         {dim3(blocks_for(count * C / N, 256)), 256}, stream, input, dy, dinput, count);
}

}  // namespace detail

/// With s = sigmoid(gate):  dx = dy gate s,  dgate = dy x s (1 + gate (1 - s)).
///
/// Shapes   input [R, 2 C], each row x, then gate; dy [R, C]; dinput [R, 2 C].
/// Saves    nothing: the forward's input is all that is read, 2 C elements a row.
/// Writes   dinput (=), which may be input itself and does not overlap dy.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int C>
void gated_activation_backward(context<P>& ctx,
                               std::type_identity_t<rows<element<P> const, 2 * C, space::device>> input,
                               rows<element<P> const, C, space::device> dy,
                               std::type_identity_t<rows<element<P>, 2 * C, space::device>> dinput) {
  require_extent("gated_activation_backward.dy rows", dy.count, input.count);
  require_extent("gated_activation_backward.dinput rows", dinput.count, input.count);
  if (!ctx.reserve(0) || dy.count == 0) return;
  constexpr int whole = 16 / int(sizeof(element<P>)), n = C % whole == 0 ? whole : 1;  // 16 bytes
  if (detail::packets_at<n>(input.data) && detail::packets_at<n>(dy.data) && detail::packets_at<n>(dinput.data))
    detail::launch_gated_activation_backward<C, n>(ctx.stream(), input.data, dy.data, dinput.data, dy.count);
  else
    detail::launch_gated_activation_backward<C, 1>(ctx.stream(), input.data, dy.data, dinput.data, dy.count);
}

}  // namespace dm2::cuda
