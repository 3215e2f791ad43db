/// @file
/// Root-mean-square normalisation, and its gradient (Zhang & Sennrich 2019, arXiv 1910.07467).
///
/// Saved: x and 1 / root mean square, 4 (C + 1) bytes a row. Recomputed: the normed rows.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
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

namespace dm2::cuda::detail {

/// Numbers of a row of C that a lane takes at once.
constexpr int norm_packet(int width) { return width % 128 == 0 ? 4 : width % 64 == 0 ? 2 : 1; }

/// A warp takes a row of C numbers, N at a time, and goes on with the row that lies as many warps further.
template <int C, int N>
struct rms_norm_backward_traits {
  static constexpr int width = C, packet = N;
  static constexpr int packets = (C / N + 31) / 32;  ///< of a lane
  static constexpr bool keep = packets * N <= 16;    ///< a row fits the registers; otherwise it is read twice
  static constexpr int warps = keep ? 8 : std::clamp((48 << 10) / (4 * C), 1, 8);
  static constexpr int threads = 32 * warps;
  static constexpr std::size_t bytes = std::size_t{4} * warps * C;  ///< of shared memory: each warp's sums of dw
  static_assert(C % N == 0, "dm2::cuda::detail::rms_norm_backward_traits<C, N>: C must be a multiple of N");
};

template <class G, class U>
struct norm_gradient_call {
  float const* x = nullptr;     ///< [R, C]
  float const* w = nullptr;     ///< [C]
  float const* rstd = nullptr;  ///< [R]
  G const* dy = nullptr;        ///< [R, C]
  float* dx = nullptr;          ///< [R, C]
  U* normed = nullptr;          ///< [R, C], x rstd w for the product that reads it; may be dy; null for none
  U* rounded = nullptr;         ///< [R, C], dx for the product that reads it; null for none
  float* parts = nullptr;       ///< [blocks, C], sums of dw
  std::size_t count = 0;        ///< R
};

/// One row of a warp. Packet j of a lane are its numbers from column(j) on; each lane reads and writes them alone.
template <class Tr, bool Add, class G, class U>
struct norm_gradient_row {
  static constexpr int N = Tr::packet;
  using floats = packet<float, N>;
  norm_gradient_call<G, U> const& call;
  std::size_t first;
  float rstd;

  __device__ norm_gradient_row(norm_gradient_call<G, U> const& c, std::size_t row)
      : call{c}, first{row * Tr::width}, rstd{c.rstd[row]} {}

  __device__ static int column(int j) { return (j * 32 + int(threadIdx.x) % 32) * N; }
  __device__ static bool inside(int j) {
    if constexpr (Tr::width % (32 * N) == 0) return true;
    return column(j) < Tr::width;
  }

  __device__ floats x_hat(int j) const {
    floats v = load_packet<N>(call.x + first + column(j));
#pragma unroll
    for (int i = 0; i < N; ++i) v.v[i] *= rstd;
    return v;
  }
  __device__ floats dy(int j) const {
    packet<G, N> const v = load_packet<N>(call.dy + first + column(j));
    floats out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = to_float(v.v[i]);
    return out;
  }
  __device__ floats before(int j) const {
    if constexpr (Add) return load_packet<N>(call.dx + first + column(j));
    return {};
  }
  __device__ static floats weight(norm_gradient_call<G, U> const& call, int j) {
    return load_packet<N>(call.w + column(j));
  }

  /// Writes packet j of dx and of what is asked for beside it.
  __device__ void write(int j, floats const& hat, floats const& g, floats const& w, floats const& old,
                        float mean) const {
    floats dx;
    packet<U, N> rounded, normed;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      dx.v[i] = fmaf(rstd, fmaf(-mean, hat.v[i], g.v[i] * w.v[i]), old.v[i]);
      rounded.v[i] = from_float<U>(dx.v[i]);
      normed.v[i] = from_float<U>(hat.v[i] * w.v[i]);
    }
    std::size_t const at = first + std::size_t(column(j));
    store_packet<N>(call.dx + at, dx);
    if (call.rounded != nullptr) store_packet<N>(call.rounded + at, rounded);
    if (call.normed != nullptr) store_packet<N>(call.normed + at, normed);
  }
};

/// A warp's rows with everything in registers: sums [packets N] of dw for this lane's columns.
template <class Tr, bool Add, class G, class U>
__device__ inline void norm_gradient_rows_kept(norm_gradient_call<G, U> const& call, std::size_t row,
                                               std::size_t stride, float* sums) {
  using row_type = norm_gradient_row<Tr, Add, G, U>;
  constexpr int N = Tr::packet, J = Tr::packets;
  packet<float, N> w[J], dw[J];
#pragma unroll
  for (int j = 0; j < J; ++j) {
    w[j] = dw[j] = {};
    if (row_type::inside(j)) w[j] = row_type::weight(call, j);
  }
  for (; row < call.count; row += stride) {
    row_type const r{call, row};
    packet<float, N> hat[J], g[J], old[J];
#pragma unroll
    for (int j = 0; j < J; ++j) {
      hat[j] = g[j] = old[j] = {};
      if (row_type::inside(j)) hat[j] = r.x_hat(j), g[j] = r.dy(j), old[j] = r.before(j);
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < J; ++j)
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float const product = g[j].v[i] * hat[j].v[i];
        dw[j].v[i] += product;
        sum = fmaf(product, w[j].v[i], sum);
      }
    float const mean = sum_over_warp(sum) * (1.f / Tr::width);
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (row_type::inside(j)) r.write(j, hat[j], g[j], w[j], old[j], mean);
  }
#pragma unroll
  for (int j = 0; j < J; ++j)
    if (row_type::inside(j)) store_packet<N>(sums + row_type::column(j), dw[j]);
}

/// The same for rows that no registers hold: each is read twice, and sums lie in shared memory.
template <class Tr, bool Add, class G, class U>
__device__ inline void norm_gradient_rows_read_twice(norm_gradient_call<G, U> const& call, std::size_t row,
                                                     std::size_t stride, float* sums) {
  using row_type = norm_gradient_row<Tr, Add, G, U>;
  constexpr int N = Tr::packet;
  for (int j = 0; j < Tr::packets && row_type::inside(j); ++j)
    store_packet<N>(sums + row_type::column(j), packet<float, N>{});
  for (; row < call.count; row += stride) {
    row_type const r{call, row};
    float sum = 0;
    for (int j = 0; j < Tr::packets && row_type::inside(j); ++j) {
      packet<float, N> const hat = r.x_hat(j), g = r.dy(j), w = row_type::weight(call, j);
      packet<float, N> dw = load_packet<N>(sums + row_type::column(j));
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float const product = g.v[i] * hat.v[i];
        dw.v[i] += product;
        sum = fmaf(product, w.v[i], sum);
      }
      store_packet<N>(sums + row_type::column(j), dw);
    }
    float const mean = sum_over_warp(sum) * (1.f / Tr::width);
    for (int j = 0; j < Tr::packets && row_type::inside(j); ++j)
      r.write(j, r.x_hat(j), r.dy(j), row_type::weight(call, j), r.before(j), mean);
  }
}

template <class Tr, bool Add, class G, class U>
__global__ void __launch_bounds__(Tr::threads)
    rms_norm_backward_kernel(__grid_constant__ norm_gradient_call<G, U> const call) {
  float* const shared = reinterpret_cast<float*>(dynamic_shared());
  int const warp = int(threadIdx.x) / 32;
  float* const sums = shared + warp * Tr::width;
  std::size_t const row = std::size_t{blockIdx.x} * Tr::warps + std::size_t(warp);
  std::size_t const stride = std::size_t{gridDim.x} * Tr::warps;
  if constexpr (Tr::keep)
    norm_gradient_rows_kept<Tr, Add>(call, row, stride, sums);
  else
    norm_gradient_rows_read_twice<Tr, Add>(call, row, stride, sums);
  __syncthreads();
  for (int c = int(threadIdx.x); c < Tr::width; c += Tr::threads) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < Tr::warps; ++w) total += shared[w * Tr::width + c];
    call.parts[std::size_t{blockIdx.x} * Tr::width + std::size_t(c)] = total;
  }
}

}  // namespace dm2::cuda::detail

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

/// The gradient, and whatever else call asks for in the same pass; Add: call.dx is added to, not overwritten. The
/// caller has reserved rms_norm_backward_scratch.
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
  detail::norm_gradient_call<gradient, element<P>> const call{
      .x = x.data, .w = w.data, .rstd = rstd, .dy = dy.data, .dx = dx.data, .count = x.count};
  detail::norm_gradient<C, true>(ctx.stream(), ctx.shared(), call, dw.data);
}

}  // namespace dm2::cuda
