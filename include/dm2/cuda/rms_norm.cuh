/// @file
/// Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467).
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// A warp takes a row of C numbers, N at a time.
template <int C, int N>
struct rms_norm_traits {
  static constexpr int width = C, packet = N, warps = 8, threads = 32 * warps;
  static constexpr int packets = (C / N + 31) / 32;  ///< of a lane
  static constexpr bool keep = packets * N <= 64;    ///< a row fits the registers; otherwise it is read twice
  static_assert(C % N == 0, "dm2::cuda::detail::rms_norm_traits<C, N>: C must be a multiple of N");
};

/// Packet j of this lane, zeros past the row.
template <class Tr>
__device__ inline packet<float, Tr::packet> row_packet(float const* row, int j) {
  int const c = (j * 32 + int(threadIdx.x) % 32) * Tr::packet;
  if (c < Tr::width) return load_packet<Tr::packet>(row + c);
  return {};
}

/// Writes packet j of this lane, normed.
template <class Tr, class U>
__device__ inline void write_packet(packet<float, Tr::packet> const& x, float s, float const* w, U* row, int j) {
  int const c = (j * 32 + int(threadIdx.x) % 32) * Tr::packet;
  if (c >= Tr::width) return;
  packet<U, Tr::packet> out;
#pragma unroll
  for (int i = 0; i < Tr::packet; ++i) out.v[i] = from_float<U>(x.v[i] * s * w[c + i]);
  store_packet<Tr::packet>(row + c, out);
}

/// y may be x: a lane writes only where it alone reads, and after it.
template <class Tr, class U>
__global__ void __launch_bounds__(Tr::threads)
    rms_norm_kernel(float const* x, float const* w, float eps, U* y, float* rstd, std::size_t count) {
  let_next_start();
  wait_for_previous();
  std::size_t const r = std::size_t{blockIdx.x} * Tr::warps + threadIdx.x / 32;
  if (r >= count) return;
  float const* const in = x + r * Tr::width;
  packet<float, Tr::packet> kept[Tr::keep ? Tr::packets : 1];
  float sum = 0;
#pragma unroll(Tr::keep ? Tr::packets : 1)
  for (int j = 0; j < Tr::packets; ++j) {
    packet<float, Tr::packet> const v = row_packet<Tr>(in, j);
#pragma unroll
    for (int i = 0; i < Tr::packet; ++i) sum = fmaf(v.v[i], v.v[i], sum);
    if constexpr (Tr::keep) kept[j] = v;
  }
  float const s = 1.f / sqrtf(sum_over_warp(sum) / float(Tr::width) + eps);
  if (rstd != nullptr && threadIdx.x % 32 == 0) rstd[r] = s;
#pragma unroll(Tr::keep ? Tr::packets : 1)
  for (int j = 0; j < Tr::packets; ++j) {
    if constexpr (Tr::keep)
      write_packet<Tr>(kept[j], s, w, y + r * Tr::width, j);
    else
      write_packet<Tr>(row_packet<Tr>(in, j), s, w, y + r * Tr::width, j);
  }
}

template <int C, int N, class U>
void launch_rms_norm(cudaStream_t stream, bool early, float const* x, float const* w, float eps, U* y, float* rstd,
                     std::size_t count) {
  using traits = rms_norm_traits<C, N>;
  launch("rms_norm", rms_norm_kernel<traits, U>, {blocks_for(count, traits::warps), traits::threads, 0, early}, stream,
         x, w, eps, y, rstd, count);
}

}  // namespace detail

/// rstd[r] = 1 / sqrt(mean_c x[r,c]^2 + eps),  y[r,c] = x[r,c] rstd[r] w[c]
///
/// Shapes   x, y [R, C]; w [C]; rstd [R]. y is of the context's element, or float.
/// Writes   y, rstd (=). rstd may be null. y may equal x.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int C, class U>
void rms_norm(context<P>& ctx, std::type_identity_t<rows<float const, C, space::device>> x,
              block<float const, space::device, C> w, double eps, rows<U, C, space::device> y, float* rstd) {
  static_assert(std::is_same_v<U, element<P>> || std::is_same_v<U, float>,
                "dm2::cuda::rms_norm: y must be of the context's element, or float");
  require_extent("rms_norm.y rows", y.count, x.count);
  if (!ctx.reserve(0) || y.count == 0) return;
  constexpr int n = C % 128 == 0 ? 4 : C % 64 == 0 ? 2 : 1;
  if (detail::packets_at<n>(x.data) && detail::packets_at<n>(y.data))
    detail::launch_rms_norm<C, n>(ctx.stream(), ctx.early(), x.data, w.data, float(eps), y.data, rstd, y.count);
  else
    detail::launch_rms_norm<C, 1>(ctx.stream(), ctx.early(), x.data, w.data, float(eps), y.data, rstd, y.count);
}

}  // namespace dm2::cuda
