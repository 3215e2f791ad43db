/// @file
/// The selective scan of Mamba-2 as a recurrence: any shape, any precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// A block runs some channels of one head of one sequence. Each channel's N states lie in the registers of `lanes`
/// neighbouring threads, 32 or fewer in each for N up to 1024.
template <mixer_shape M>
struct scan_traits {
  static constexpr int heads = M.heads, per_group = M.heads / M.groups, width = M.headdim, inner = M.d_inner();
  static constexpr int state = M.d_state, states = M.groups * M.d_state;
  static constexpr int lanes = state <= 32    ? 1
                               : state <= 64  ? 2
                               : state <= 128 ? 4
                               : state <= 256 ? 8
                               : state <= 512 ? 16
                                              : 32;
  static constexpr int packets = (state + 4 * lanes - 1) / (4 * lanes);  ///< of 4 states, a thread
  static constexpr int padded = packets * 4 * lanes;                     ///< states, zeros past the last
  static constexpr int slices = (width + 256 / lanes - 1) / (256 / lanes);
  static constexpr int channels = (width + slices - 1) / slices;  ///< of a block
  static constexpr int threads = (channels * lanes + 31) / 32 * 32;
  /// Tokens that are staged at a time: what 40 KB hold, 16 at most.
  static constexpr int tokens = std::clamp(10240 / (2 * padded + channels + 2), 1, 16);
  static_assert(2 * padded + channels + 2 <= 12288, "dm2::cuda: d_state is too large for the general scan");
};

/// A block's operands of Tr::tokens tokens, as float.
template <class Tr>
struct scan_stage {
  alignas(16) float b[Tr::tokens][Tr::padded];
  alignas(16) float c[Tr::tokens][Tr::padded];
  float x[Tr::tokens][Tr::channels];
  float step[Tr::tokens], decay[Tr::tokens];
};

/// Where a block's operands start.
template <class T>
struct scan_source {
  T const *x, *b, *c;  ///< the block's first channel, and its group's states
  float const* dt;     ///< the block's head
  float a;             ///< of the head
};

/// Stages n tokens from t0 on. `channels` of the block's are inside the head.
template <class Tr, class T>
__device__ inline void stage_scan(scan_source<T> const& from, std::size_t t0, int n, int channels, scan_stage<Tr>& to) {
  for (int at = int(threadIdx.x); at < n * Tr::padded; at += Tr::threads) {
    int const t = at / Tr::padded, s = at % Tr::padded;
    std::size_t const source = (t0 + t) * Tr::states + s;
    to.b[t][s] = s < Tr::state ? to_float(from.b[source]) : 0.f;
    to.c[t][s] = s < Tr::state ? to_float(from.c[source]) : 0.f;
  }
  for (int at = int(threadIdx.x); at < n * Tr::channels; at += Tr::threads) {
    int const t = at / Tr::channels, p = at % Tr::channels;
    to.x[t][p] = p < channels ? to_float(from.x[(t0 + t) * Tr::inner + p]) : 0.f;
  }
  for (int t = int(threadIdx.x); t < n; t += Tr::threads) {
    float const step = from.dt[(t0 + t) * Tr::heads];
    to.step[t] = step;
    to.decay[t] = expf(step * from.a);
  }
}

/// One token: h = decay h + step x b; returns c . h over this thread's states.
template <class Tr>
__device__ inline float advance_scan(float (&h)[Tr::packets][4], scan_stage<Tr> const& s, int t, int lane, float x) {
  float const in = s.step[t] * x, decay = s.decay[t];
  float sum = 0;
#pragma unroll
  for (int j = 0; j < Tr::packets; ++j) {
    int const first = (j * Tr::lanes + lane) * 4;
    auto const b = load_packet<4>(&s.b[t][first]), c = load_packet<4>(&s.c[t][first]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      h[j][i] = fmaf(in, b.v[i], decay * h[j][i]);
      sum = fmaf(c.v[i], h[j][i], sum);
    }
  }
  return sum_over_lanes<Tr::lanes>(sum);
}

template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    scan_kernel(T const* x, float const* dt, float const* a, T const* b, T const* c, float const* d, T* y, int length) {
  __shared__ scan_stage<Tr> stage;
  int const slice = int(blockIdx.x % Tr::slices), head = int(blockIdx.x / Tr::slices % Tr::heads);
  std::size_t const row = std::size_t{blockIdx.x / (Tr::slices * Tr::heads)} * std::size_t(length);
  int const first = slice * Tr::channels, channels = min(Tr::channels, Tr::width - first), group = head / Tr::per_group;
  std::size_t const column = std::size_t(head * Tr::width + first);
  scan_source<T> const from{.x = x + row * Tr::inner + column,
                            .b = b + row * Tr::states + group * Tr::state,
                            .c = c + row * Tr::states + group * Tr::state,
                            .dt = dt + row * Tr::heads + head,
                            .a = a[head]};
  int const lane = int(threadIdx.x) % Tr::lanes, channel = int(threadIdx.x) / Tr::lanes;
  bool const active = channel < channels;
  float const skip = d[head];
  float h[Tr::packets][4] = {};
  for (int t0 = 0; t0 < length; t0 += Tr::tokens) {
    int const n = min(Tr::tokens, length - t0);
    __syncthreads();
    stage_scan<Tr>(from, std::size_t(t0), n, channels, stage);
    __syncthreads();
    for (int t = 0; t < n; ++t) {
      float const in = active ? stage.x[t][channel] : 0.f;
      float const sum = advance_scan<Tr>(h, stage, t, lane, in);
      if (active && lane == 0)
        y[(row + std::size_t(t0 + t)) * Tr::inner + column + channel] = from_float<T>(fmaf(skip, in, sum));
    }
  }
}

/// y = scan(x, dt, A, B, C) + D x for each sequence; head h reads group h / (H / G). The state is float.
///
/// Shapes   ssd_input's, which are not checked; y [B L, H P].
/// Writes   y (=). y overlaps no input.
template <mixer_shape M, class T, precision P>
void scan_general(context<P>& ctx, ssd_input<M, T, space::device, float> const& in,
                  rows<T, M.d_inner(), space::device> y) {
  using traits = scan_traits<M>;
  if (!ctx.reserve(0) || in.x.count == 0) return;
  std::size_t const blocks = in.x.count / std::size_t(in.length) * traits::heads * traits::slices;
  launch("scan_general", scan_kernel<traits, T>, {unsigned(blocks), traits::threads}, ctx.stream(), in.x.data,
         in.dt.data, in.a.data, in.b.data, in.c.data, in.d.data, y.data, in.length);
}

}  // namespace dm2::cuda::detail::ssd
