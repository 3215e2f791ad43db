/// @file
/// The streamed attention's gradients, back through rotation and convolution.
#pragma once

#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/backward_write.cuh>
#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <cmath>
#include <cstddef>

namespace dm2::cuda::detail::attention_core {

/// One launch.
template <class Tr>
struct streamed_inputs_backward_arguments {
  typename Tr::element const* qkv;  ///< [B L, 3 width], 16-byte aligned
  typename Tr::element const* d;    ///< [B, H, 3, L, d]
  typename Tr::element* dqkv;       ///< [B L, 3 width], 16-byte aligned
  float* sums;                      ///< [parts, taps + 1, 3 width], of the taps' gradients and the bias's
  run_parameters<Tr> parameters;
  int count;   ///< B
  int length;  ///< L
};

/// Four channels' gradients of consecutive tokens, turned back by their position. They are read `ahead` tokens before
/// they are needed.
template <class Tr>
struct turned_back_run {
  using T = typename Tr::element;
  static constexpr int ahead = Tr::taps > 0 ? Tr::taps : 1;
  T const* own;  ///< token 0's numbers
  int other;     ///< from there to those that they turn with; 0 where they do not
  int length;
  uint2 next_own[ahead], next_other[ahead];                ///< a ring
  float cosine[4], sine[4], cosine_step[4], sine_step[4];  ///< sines of the second of two are negative

  /// d is the sequence's first number; `channel` of 3 width, the run starts at token `token`.
  __device__ turned_back_run(streamed_inputs_backward_arguments<Tr> const& call, T const* d, int channel, int token)
      : length{call.length} {
    constexpr int half = Tr::rotary / 2;
    int const part = channel / Tr::head_dim, in_head = channel % Tr::head_dim;  // of q, k and v, head after head
    int const row = part % Tr::heads * 3 + part / Tr::heads;
    own = d + std::size_t(unsigned(row)) * unsigned(length) * Tr::head_dim + in_head;
    bool const turned = part < 2 * Tr::heads && in_head < Tr::rotary, second = in_head >= half;
    other = !turned ? 0 : second ? -half : half;
#pragma unroll
    for (int j = 0; j < ahead; ++j) fetch(token + j, j);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      cosine[c] = cosine_step[c] = 1.f;
      sine[c] = sine_step[c] = 0.f;
    }
    if constexpr (Tr::rotary > 0) {
      if (!turned) return;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int const pair = in_head - (second ? half : 0) + c;
        double const circles = token * call.parameters.rotary.turns[pair];  // as token_run::prepare
        __sincosf(float(circles - rint(circles)) * 6.283185307f, &sine[c], &cosine[c]);
        cosine_step[c] = call.parameters.rotary.cosine[pair];
        sine_step[c] = call.parameters.rotary.sine[pair];
        if (second) sine[c] = -sine[c], sine_step[c] = -sine_step[c];
      }
    }
  }

  /// Token t, the next one, whose place in the ring is `slot`.
  __device__ void operator()(int t, int slot, float (&to)[4]) {
    uint2 const raw = next_own[slot], raw_other = next_other[slot];
    fetch(t + ahead, slot);
    spread_four<T>(raw, to);
    if constexpr (Tr::rotary > 0) {
      if (other == 0) return;
      float x[4];
      spread_four<T>(raw_other, x);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float const u = cosine[c], v = sine[c];
        to[c] = fmaf(to[c], u, v * x[c]);
        cosine[c] = u * cosine_step[c] - v * sine_step[c];
        sine[c] = v * cosine_step[c] + u * sine_step[c];
      }
    }
  }

 private:
  __device__ void fetch(int t, int slot) {
    std::ptrdiff_t const at = std::ptrdiff_t{t} * Tr::head_dim;
    bool const there = t < length;
    next_own[slot] = there ? __ldg(reinterpret_cast<uint2 const*>(own + at)) : uint2{};
    if (Tr::rotary > 0 && other != 0)
      next_other[slot] = there ? __ldg(reinterpret_cast<uint2 const*>(own + at + other)) : uint2{};
  }
};

/// f(gradients, place of token 0, first token, end) of each run that this warp takes of a channel.
template <class Tr, class F>
__device__ inline void for_runs_back(streamed_inputs_backward_arguments<Tr> const& call, int channel, F const& f) {
  using sizes = inputs_backward_traits<Tr>;
  unsigned const runs = unsigned((call.length - 1) / sizes::run + 1);
  for (std::size_t r = blockIdx.y * unsigned(sizes::warps) + threadIdx.x / 32; r < std::size_t(call.count) * runs;
       r += std::size_t{gridDim.y} * sizes::warps) {
    std::size_t const first = r / runs * unsigned(call.length) * sizes::channels;
    int const begin = int(r % runs) * sizes::run, end = min(begin + sizes::run, call.length);
    f(turned_back_run<Tr>{call, call.d + first, channel, begin}, first + unsigned(channel), begin, end);
  }
}

/// A lane's sums over the block's warps, in their order, to a part of call.sums from `channel` on.
template <class Tr>
__device__ inline void add_warps(float4 const (&of_warp)[inputs_backward_traits<Tr>::warps][Tr::taps + 1][32],
                                 float* sums, int channel) {
  using sizes = inputs_backward_traits<Tr>;
  int const lane = int(threadIdx.x) % 32;
  for (int k = int(threadIdx.x) / 32; k <= Tr::taps; k += sizes::warps) {
    float4 sum{};
#pragma unroll
    for (int i = 0; i < sizes::warps; ++i) {
      float4 const x = of_warp[i][k][lane];
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    std::size_t const line = std::size_t{blockIdx.y} * (Tr::taps + 1) + unsigned(k);
    *reinterpret_cast<float4*>(sums + line * sizes::channels + channel) = sum;
  }
}

/// dqkv, and each part's sums. A lane takes four channels, a warp some runs of tokens, a block a part of all runs.
/// Block: 128 channels, part.
template <class Tr>
__global__ void __launch_bounds__(inputs_backward_traits<Tr>::threads, 2)
    streamed_inputs_backward_kernel(__grid_constant__ streamed_inputs_backward_arguments<Tr> const call) {
  using sizes = inputs_backward_traits<Tr>;
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, channel = (int(blockIdx.x) * 32 + lane) * 4;
  bool const inside = channel < sizes::channels;
  if constexpr (Tr::taps == 0) {
    if (!inside) return;
    for_runs_back(call, channel, [&](turned_back_run<Tr> gradient, std::size_t at, int begin, int end) {
      for (int t = begin; t < end; ++t) {
        float g[4];
        gradient(t, 0, g);
        *reinterpret_cast<uint2*>(call.dqkv + at + std::size_t(t) * sizes::channels) =
            make_uint2(pack<T>(g[0], g[1]), pack<T>(g[2], g[3]));
      }
    });
  } else {
    __shared__ float4 of_warp[sizes::warps][Tr::taps + 1][32];
    run_back<Tr, Tr::taps> run{call.parameters.conv + (inside ? channel : 0) * Tr::taps};
    if (inside)
      for_runs_back(call, channel, [&](turned_back_run<Tr> gradient, std::size_t at, int begin, int end) {
        run.apply(gradient, call.qkv + at, call.dqkv + at, begin, end);
      });
#pragma unroll
    for (int k = 0; k <= Tr::taps; ++k) {
      float const(&s)[4] = k < Tr::taps ? run.dw[min(k, Tr::taps - 1)] : run.db;
      of_warp[warp][k][lane] = make_float4(s[0], s[1], s[2], s[3]);
    }
    __syncthreads();
    if (inside) add_warps<Tr>(of_warp, call.sums, channel);
  }
}

}  // namespace dm2::cuda::detail::attention_core
