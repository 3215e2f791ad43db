/// @file
/// Takes the gradients of q, k and v through rotation and convolution.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail::attention_core {

/// Sizes of the way back for a Tr of the attention's. A warp takes 32 channels of a run of consecutive tokens; a block
/// of eight warps takes a part of all runs, whose sums it adds up. How many parts there are depends on the sizes alone.
template <class Tr>
struct inputs_backward_traits {
  static constexpr int warps = 8, threads = 32 * warps, run = 32, most_parts = 64;
  static constexpr int taps = Tr::taps, width = Tr::width, head_dim = Tr::head_dim;
  static constexpr int rotary = Tr::rotary, half = Tr::rotary / 2;
  static constexpr int channels = 3 * Tr::width;
  static constexpr int window = taps > 0 ? taps : 1;  ///< tokens whose gradient reaches one token of the input
  static constexpr int sums = taps > 0 ? (taps + 1) * channels : 0;  ///< numbers of a part: taps [taps, channels], bias
  static constexpr int groups = (channels + 31) / 32;

  static int runs(int length) { return (length + run - 1) / run; }
  static int parts(std::size_t count, int length) {
    std::size_t const all = count * std::size_t(runs(length));
    return int(std::min<std::size_t>((all + warps - 1) / warps, most_parts));
  }
};

/// Token t's gradient of a channel before the rotation; d [L, channels] is one sequence's, table [L, rotary]. Zero
/// after the last token.
template <class B, class T>
__device__ inline float turned_back(T const* d, float const* table, int channel, int t, int length) {
  if (t >= length) return 0.f;
  T const* const row = d + std::ptrdiff_t{t} * B::channels;
  float const g = to_float(row[channel]);
  if constexpr (B::rotary != 0) {
    int const in_head = channel % B::head_dim;
    if (channel < 2 * B::width && in_head < B::rotary) {
      bool const first = in_head < B::half;  // of the two numbers that turn together
      float const other = to_float(row[first ? channel + B::half : channel - B::half]);
      float const* const angle = table + std::ptrdiff_t{t} * B::rotary + in_head % B::half;
      float const turned = other * angle[B::half];
      return first ? fmaf(g, angle[0], turned) : fmaf(g, angle[0], -turned);
    }
  }
  return g;
}

/// What the kernel reads and writes; qkv, d and dqkv [B L, channels].
template <class T>
struct inputs_backward_arguments {
  T const *qkv, *d;
  float const* conv;   ///< [channels, taps]
  float const* table;  ///< [L, rotary]
  T* dqkv;
  float* sums;  ///< [parts, taps + 1, channels]
  int count, length;
};

/// One channel's way back: dx[t] = sum over j of w[taps - 1 - j] g[t + j] with g = turned_back(d), and the sums of
/// x[t] g[t + j], which is tap taps - 1 - j's, and of g.
template <class B>
struct channel_back {
  float w[B::window] = {}, dw[B::window] = {}, db = 0.f;

  __device__ channel_back(float const* conv, int channel) {
#pragma unroll
    for (int k = 0; k < B::taps; ++k) w[k] = conv[channel * B::taps + k];
  }
  /// Tokens [begin, end) of the sequence whose first number is number `first`.
  template <class T>
  __device__ void run(inputs_backward_arguments<T> const& p, int channel, std::size_t first, int begin, int end) {
    float g[B::window];
    auto const fetch = [&](int t) { return turned_back<B>(p.d + first, p.table, channel, t, p.length); };
#pragma unroll
    for (int j = 0; j + 1 < B::window; ++j) g[j + 1] = fetch(begin + j);
#pragma unroll 4
    for (int t = begin; t < end; ++t) {
#pragma unroll
      for (int j = 0; j + 1 < B::window; ++j) g[j] = g[j + 1];
      g[B::window - 1] = fetch(t + B::window - 1);
      std::size_t const at = first + std::size_t(t) * B::channels + unsigned(channel);
      p.dqkv[at] = from_float<T>(B::taps == 0 ? g[0] : step(to_float(p.qkv[at]), g));
    }
  }

 private:
  /// dx of one token, whose x and g are these.
  __device__ float step(float x, float const (&g)[B::window]) {
    float dx = 0.f;
#pragma unroll
    for (int j = 0; j < B::taps; ++j) {
      dx = fmaf(w[B::taps - 1 - j], g[j], dx);
      dw[B::taps - 1 - j] = fmaf(x, g[j], dw[B::taps - 1 - j]);
    }
    db += g[0];
    return dx;
  }
};

/// The sums of the block's warps, in their order, to its part. All threads.
template <class B>
__device__ inline void write_channel_sums(channel_back<B> const& own, float* sums, int channel) {
  __shared__ float of_warp[B::warps][B::taps + 1][32];
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int k = 0; k < B::taps; ++k) of_warp[warp][k][lane] = own.dw[k];
  of_warp[warp][B::taps][lane] = own.db;
  __syncthreads();
  for (int k = warp; k <= B::taps; k += B::warps) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < B::warps; ++i) sum += of_warp[i][k][lane];
    if (channel < B::channels)
      sums[std::size_t{blockIdx.y} * B::sums + std::size_t(k) * B::channels + unsigned(channel)] = sum;
  }
}

/// dqkv, and each part's sums. Block: 32 channels, part.
template <class B, class T>
__global__ void __launch_bounds__(B::threads)
    inputs_backward_kernel(__grid_constant__ inputs_backward_arguments<T> const p) {
  int const channel = int(blockIdx.x) * 32 + int(threadIdx.x) % 32;
  unsigned const runs = unsigned((p.length + B::run - 1) / B::run);
  bool const inside = channel < B::channels;
  channel_back<B> back{p.conv, inside ? channel : 0};
  if (inside)
    for (std::size_t r = blockIdx.y * B::warps + threadIdx.x / 32; r < std::size_t(p.count) * runs;
         r += std::size_t{gridDim.y} * B::warps) {
      int const begin = int(r % runs) * B::run;
      back.run(p, channel, r / runs * unsigned(p.length) * B::channels, begin, min(begin + B::run, p.length));
    }
  if constexpr (B::taps != 0) write_channel_sums(back, p.sums, channel);
}

/// Where number `at` of a part's sums is added: dconv [channels, taps] or dbias [channels].
template <class B>
struct convolution_adder {
  float *dconv, *dbias;

  __device__ void operator()(int at, float sum) const {
    int const k = at / B::channels, channel = at % B::channels;
    *(k < B::taps ? dconv + channel * B::taps + k : dbias + channel) += sum;
  }
};

/// Adds the sums of every part to the parameters' gradients.
template <class B>
void add_convolution_sums(cudaStream_t stream, float const* sums, int parts, float* dconv, float* dbias) {
  add_parts_to<B::warps>("attention_core_backward: sums", stream, sums, parts, B::sums,
                         convolution_adder<B>{dconv, dbias});
}

}  // namespace dm2::cuda::detail::attention_core
