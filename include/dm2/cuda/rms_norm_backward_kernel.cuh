/// @file
/// The gradient of root-mean-square normalisation as one pass over the rows.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>

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
  float const* x;     ///< [R, C]
  float const* w;     ///< [C]
  float const* rstd;  ///< [R]
  G const* dy;        ///< [R, C]
  float* dx;          ///< [R, C]
  U* normed;          ///< [R, C], x rstd w for the product that reads it; may be dy; null for none
  U* rounded;         ///< [R, C], dx for the product that reads it; null for none
  float* parts;       ///< [blocks, C], sums of dw
  std::size_t count;  ///< R
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
