/// @file
/// Writes the gradients of q, k and v, back through the convolution.
#pragma once

#include <dm2/cuda/attention_core/backward_layout.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <cstddef>

namespace dm2::cuda::detail::attention_core {

/// Four packed numbers.
template <class T>
__device__ inline void spread_four(uint2 v, float (&x)[4]) {
  float2 const low = unpack<T>(v.x), high = unpack<T>(v.y);
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

/// Four channels of the convolution, back along a run of tokens: dx[t] = sum over j of w[taps - 1 - j] g[t + j], and
/// the sums of x[t] g[t + j], tap taps - 1 - j's, and of g.
///
/// x is read Batch tokens, a multiple of taps, at a time, while those before are worked on.
template <class Tr, int Batch = 2 * Tr::taps>
struct run_back {
  using T = typename Tr::element;
  static constexpr int taps = Tr::taps, ahead = taps > 1 ? taps - 1 : 0;
  static constexpr int batch = Batch;
  float w[taps][4], dw[taps][4] = {}, db[4] = {}, g[taps][4];  ///< g is a ring

  __device__ explicit run_back(float const* conv) {
    float flat[4 * taps];
#pragma unroll
    for (int i = 0; i < taps; ++i) {
      float4 const v = __ldg(reinterpret_cast<float4 const*>(conv) + i);
      flat[4 * i] = v.x, flat[4 * i + 1] = v.y, flat[4 * i + 2] = v.z, flat[4 * i + 3] = v.w;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c)
#pragma unroll
      for (int k = 0; k < taps; ++k) w[k][c] = flat[c * taps + k];
  }

  /// Tokens [begin, end), which are some; x and dx are token 0's numbers. gradient(t, slot, to) gives the gradient of
  /// token t, zeros after the last one, of begin, begin + 1 and so on; slot is (t - begin) % taps, which the compiler
  /// knows.
  template <class Gradient>
  __device__ void apply(Gradient&& gradient, T const* x, T* dx, int begin, int end) {
    uint2 next[batch];
    fetch(x, begin, end, next);
#pragma unroll
    for (int j = 0; j < ahead; ++j) gradient(begin + j, j, g[j]);
#pragma unroll 1
    for (int t = begin; t < end; t += batch) {
      uint2 raw[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j) raw[j] = next[j];
      fetch(x, t + batch, end, next);
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (t + j < end) {
          gradient(t + j + ahead, (j + ahead) % taps, g[(j + ahead) % taps]);
          *reinterpret_cast<uint2*>(dx + std::ptrdiff_t{t + j} * (3 * Tr::width)) = step(j, raw[j]);
        }
    }
  }

 private:
  __device__ static void fetch(T const* x, int t, int end, uint2 (&to)[batch]) {
#pragma unroll
    for (int j = 0; j < batch; ++j)
      to[j] = __ldg(reinterpret_cast<uint2 const*>(x + std::ptrdiff_t{min(t + j, end - 1)} * (3 * Tr::width)));
  }
  /// A token whose own gradient stands at place `first` of the ring.
  __device__ uint2 step(int first, uint2 raw) {
    float x[4], y[4] = {};
    spread_four<T>(raw, x);
#pragma unroll
    for (int j = 0; j < taps; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float const v = g[(first + j) % taps][c];
        y[c] = fmaf(w[taps - 1 - j][c], v, y[c]);
        dw[taps - 1 - j][c] = fmaf(x[c], v, dw[taps - 1 - j][c]);
      }
#pragma unroll
    for (int c = 0; c < 4; ++c) db[c] += g[first % taps][c];
    return make_uint2(pack<T>(y[0], y[1]), pack<T>(y[2], y[3]));
  }
};

/// The sums of the parameters' gradients over all runs, added in their order, to call.sums. All threads.
template <class Tr>
__device__ inline void add_runs(backward_arguments<Tr> const& call, float const* sums) {
  backward_place<Tr> const at{call.length};
  constexpr int line = 3 * Tr::head_dim;
  float* const out = call.sums + at.part * ((Tr::taps + 1) * 3 * Tr::width) + at.channel;
#pragma unroll 1
  for (int i = int(threadIdx.x); i < Tr::sums; i += Tr::threads) {
    float sum = 0.f;
#pragma unroll
    for (int r = 0; r < Tr::runs; ++r) sum += sums[r * Tr::sums + i];
    int const k = i / line, c = i % line;
    out[k * 3 * Tr::width + c / Tr::head_dim * Tr::width + c % Tr::head_dim] = sum;
  }
}

/// From the gradients of q (where k was), k (where q was) and v (where dy was) to dqkv, and the sums of its parameters'
/// gradients. All threads, after a barrier.
template <class Tr>
__device__ inline void write_inputs(backward_arguments<Tr> const& call, typename Tr::element* shared) {
  backward_place<Tr> const at{call.length};
  constexpr int units = 6 * Tr::units;
  int const thread = fresh_thread(), unit = thread % units, index = thread / units;
  int const which = unit / (2 * Tr::units), in_head = unit % (2 * Tr::units) * 4;
  int const channel = which * Tr::width + at.channel + in_head;
  int const size = (call.length + Tr::runs - 1) / Tr::runs, begin = min(index * size, call.length);
  int const end = index < Tr::runs ? min(begin + size, call.length) : begin;
  auto const* const d = shared + (which == 0 ? Tr::keys : which == 1 ? Tr::queries : Tr::slopes) + in_head;
  std::size_t const first = at.row * (3 * Tr::width) + unsigned(channel);
  if constexpr (Tr::taps == 0) {
#pragma unroll 4
    for (int t = begin; t < end; ++t)
      *reinterpret_cast<uint2*>(call.dqkv + first + std::size_t(t) * (3 * Tr::width)) =
          *reinterpret_cast<uint2 const*>(d + t * Tr::pitch);
  } else {
    float* const sums = reinterpret_cast<float*>(shared + Tr::free);
    if (index < Tr::runs) {
      run_back<Tr> run{call.run.conv + std::ptrdiff_t{channel} * Tr::taps};
      auto const gradient = [&](int t, int, float(&to)[4]) {
        spread_four<typename Tr::element>(
            t < call.length ? *reinterpret_cast<uint2 const*>(d + t * Tr::pitch) : make_uint2(0, 0), to);
      };
      if (begin < end) run.apply(gradient, call.qkv + first, call.dqkv + first, begin, end);
      float* const to = sums + index * Tr::sums + which * Tr::head_dim + in_head;
#pragma unroll
      for (int k = 0; k <= Tr::taps; ++k) {
        float const(&s)[4] = k < Tr::taps ? run.dw[min(k, Tr::taps - 1)] : run.db;
        *reinterpret_cast<float4*>(to + k * 3 * Tr::head_dim) = make_float4(s[0], s[1], s[2], s[3]);
      }
    }
    __syncthreads();
    add_runs(call, sums);
  }
}

}  // namespace dm2::cuda::detail::attention_core
