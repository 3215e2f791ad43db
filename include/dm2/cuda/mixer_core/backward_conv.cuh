/// @file
/// The backward of the mixer's convolutions and steps: the gradient of the projection from those of x, B, C and dt of
/// both directions.
///
/// With p the convolution's result, u = silu(p): dp = du silu'(p), draw_t = sum_k w_k dp_{t + K - 1 - k},
/// dw_k = sum_t dp_t raw_{t - (K - 1) + k}, db = sum dp; p is computed again from raw. A thread goes down the tokens of
/// some channels, with the last tokens' raw and dp in registers and the next ones' loads under way, and does both
/// directions on the way: a direction that reads the tokens in reverse is a convolution with its taps in reverse that
/// looks forwards, so that at token s its result is that of s - (K - 1). That is also the token whose draw is complete.
#pragma once

#include <dm2/cuda/mixer_core/backward_gate.cuh>
#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

template <class T>
struct conv_backward_operands {
  T const* zxbcdt;  ///< [n, projected]
  T *dx, *db, *dc;  ///< [2 n, ...] of both directions
  T* dzxbcdt;       ///< [n, projected]: (=), or (+=) where a direction's z has been written
  float* parts;     ///< [gridDim.x, 2, convolved (taps + 1)]: sums for taps, then bias, in the parameters' order
  direction_pair p;
  std::size_t n;
  int length, sequences;
  int runs;  ///< of a sequence's tokens; block x does run i % runs of sequence i / runs for i = x, x + gridDim.x, ...
  int run;   ///< tokens
};

/// One direction's convolution of V channels, going down the tokens.
template <class Tr, class Dir, class T>
struct conv_march {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps;
  static constexpr int lag = Dir::reverse_tokens ? K - 1 : 0;  ///< tokens by which its result is behind raw
  using numbers = vector_numbers<T, V>;

  float taps[K][V], bias[V];  ///< taps in the order in which raw meets them
  float dtaps[K][V] = {}, dbias[V] = {};
  float dp[K - 1 + U][V];
  convolved_slice<T> du;
  numbers now[U], next[U];  ///< du of a step's tokens, and of those of the step after it
  int channel;

  __device__ conv_march(conv_backward_operands<T> const& p, int channel_)
      : du{slice_of<Dir>(p.dx, p.db, p.dc, channel_)}, channel{channel_} {
    if (Dir::out != 0) du.data += p.n * std::size_t(du.stride);
    float own[K][V];
    load_taps<Dir>(p.p.direction[Dir::out != 0], channel, own, bias);
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) taps[k][v] = own[Dir::reverse_tokens ? K - 1 - k : k][v];
  }
  __device__ void start() {
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) dp[k][v] = 0;
  }
  /// Starts the loads for raw's tokens s .. s + U - 1 of the sequence whose first row is `first`. Inside: all of them
  /// and of their results are tokens that the caller counts.
  template <bool Inside>
  __device__ void load(std::size_t first, int s, int length) {
    constexpr int down = Dir::reverse_tokens ? -1 : 1;
    int const start = Dir::reverse_tokens ? length - 1 - (s - lag) : s;
    T const* const from = du.data + (std::ptrdiff_t(first) + start) * du.stride;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      int const t = s + u - lag;
      next[u] = numbers::load_if(Inside || (t >= 0 && t < length), from + down * u * du.stride);
    }
  }
  __device__ void take() {
#pragma unroll
    for (int u = 0; u < U; ++u) now[u] = next[u];
  }
  /// raw[K - 1 + u] is token s + u; out[u] gets this direction's part of draw of token s + u - (K - 1). Sums count the
  /// tokens [t0, t1).
  template <bool Inside>
  __device__ void step(float const (&raw)[K - 1 + U][V], int s, int t0, int t1, float (&out)[U][V]) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      float d[V];
      now[u].get(d);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float p = bias[v];
#pragma unroll
        for (int k = 0; k < K; ++k) p = fmaf(taps[k][v], raw[u + k][v], p);
        float const s_ = sigmoid_as<T>(p);
        dp[K - 1 + u][v] = d[v] * fmaf(p * s_, 1.f - s_, s_);
#pragma unroll
        for (int k = 0; k < K; ++k) out[u][v] = fmaf(taps[k][v], dp[K - 1 + u - k][v], out[u][v]);
      }
      int const t = s + u - lag;
      if (!Inside && (t < t0 || t >= t1)) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        dbias[v] += dp[K - 1 + u][v];
#pragma unroll
        for (int k = 0; k < K; ++k) dtaps[k][v] = fmaf(dp[K - 1 + u][v], raw[u + k][v], dtaps[k][v]);
      }
    }
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) dp[k][v] = dp[U + k][v];
  }
  __device__ void write(float* parts) const {
    float* const to = parts + (std::size_t{blockIdx.x} * 2 + (Dir::out != 0)) * std::size_t(Tr::convolved * (K + 1));
#pragma unroll
    for (int v = 0; v < V; ++v) {
      int const own = arranged<Dir>(channel + v, Tr::convolved);
#pragma unroll
      for (int k = 0; k < K; ++k) to[own * K + k] = dtaps[Dir::reverse_tokens ? K - 1 - k : k][v];
      to[Tr::convolved * K + own] = dbias[v];
    }
  }
};

/// A direction that does not have the channels.
template <class Tr, class Dir, class T>
struct conv_nothing {
  __device__ conv_nothing(conv_backward_operands<T> const&, int) {}
  __device__ void start() {}
  template <bool>
  __device__ void load(std::size_t, int, int) {}
  __device__ void take() {}
  template <bool>
  __device__ void step(float const (&)[Tr::taps - 1 + Tr::steps][Tr::vector], int, int, int,
                       float (&)[Tr::steps][Tr::vector]) {}
  __device__ void write(float*) const {}
};

/// V channels of the projection from `channel` on, which the first direction convolves, or the second, or both. `Add`:
/// to what dzxbcdt holds.
template <class Tr, bool First, bool Second, bool Add, class T>
struct conv_channels {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, pitch = Tr::projected;
  using numbers = vector_numbers<T, V>;
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;

  conv_backward_operands<T> const& p;
  int channel;
  std::conditional_t<First, conv_march<Tr, a_direction, T>, conv_nothing<Tr, a_direction, T>> a;
  std::conditional_t<Second, conv_march<Tr, b_direction, T>, conv_nothing<Tr, b_direction, T>> b;
  float raw[K - 1 + U][V];
  numbers next[U], before[U];  ///< raw of a step's tokens, and what dzxbcdt holds of those that it completes

  __device__ conv_channels(conv_backward_operands<T> const& p_, int channel_)
      : p{p_}, channel{channel_}, a{p_, channel_ - a_direction::conv}, b{p_, channel_ - b_direction::conv} {}

  /// Tokens [t0, t1) of the sequence whose first row is `first`.
  struct part {
    std::size_t first;
    int t0, t1;

    /// Whether at the step from token s on every token that comes in or goes out is one of these.
    [[nodiscard]] __device__ bool inside(int s) const { return s >= t0 + K - 1 && s + U <= t1; }
    /// Whether the token that the step completes with its token u is one of these.
    [[nodiscard]] __device__ bool leaves(int s, int u) const { return s + u - (K - 1) >= t0 && s + u - (K - 1) < t1; }
  };

  /// Starts the loads of the step at which tokens s .. s + U - 1 come in, s - (K - 1) .. go out.
  template <bool Inside>
  __device__ void load(part const& run, int s) {
    std::ptrdiff_t const at = (std::ptrdiff_t(run.first) + s) * pitch + channel;
#pragma unroll
    for (int u = 0; u < U; ++u) next[u] = numbers::load_if(Inside || s + u < p.length, p.zxbcdt + at + u * pitch);
    a.template load<Inside>(run.first, s, p.length), b.template load<Inside>(run.first, s, p.length);
    if (Add)
#pragma unroll
      for (int u = 0; u < U; ++u)
        before[u] = numbers::load_if(Inside || run.leaves(s, u), p.dzxbcdt + at + (u - (K - 1)) * pitch);
  }
  __device__ void load(part const& run, int s) {
    if (run.inside(s))
      load<true>(run, s);
    else
      load<false>(run, s);
  }
  /// What the loads of step s have brought, then the loads of the step after it, then its work.
  template <bool Inside>
  __device__ void step(part const& run, int s) {
    float out[U][V] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      next[u].get(raw[K - 1 + u]);
      if (Add) before[u].get(out[u]);
    }
    a.take(), b.take();
    if (s + U < run.t1 + K - 1) load(run, s + U);
    a.template step<Inside>(raw, s, run.t0, run.t1, out), b.template step<Inside>(raw, s, run.t0, run.t1, out);
    T* const to = p.dzxbcdt + (std::ptrdiff_t(run.first) + s) * pitch + channel;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (Inside || run.leaves(s, u)) numbers::store(to + (u - (K - 1)) * pitch, out[u]);
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) raw[k][v] = raw[U + k][v];
  }

  __device__ void run() {
    for (int unit = int(blockIdx.x); unit < p.sequences * p.runs; unit += int(gridDim.x)) {
      int const t0 = unit % p.runs * p.run;
      part const run{std::size_t(unit / p.runs) * std::size_t(p.length), t0, min(t0 + p.run, p.length)};
#pragma unroll
      for (int k = 0; k < K - 1; ++k) {
        int const t = t0 - (K - 1) + k;
        numbers::load_if(t >= 0, p.zxbcdt + (std::ptrdiff_t(run.first) + t) * pitch + channel).get(raw[k]);
      }
      a.start(), b.start();
      load(run, t0);
#pragma unroll 1
      for (int s = t0; s < run.t1 + K - 1; s += U)
        if (run.inside(s))
          step<true>(run, s);
        else
          step<false>(run, s);
    }
    a.write(p.parts), b.write(p.parts);
  }
};

/// Blocks of a multiprocessor that the registers are for. Four of 128 registers, with two tokens a step where a thread
/// has four channels, took 184 us for Tiny's 256 sequences, these 160.
inline constexpr int conv_backward_resident = 3;

/// How warps share the channels that a direction convolves: those that one direction alone convolves, before and behind
/// those of both, `Wide` a thread, those of both `Narrow`. Work for a thread is about the same in each.
template <class Narrow, class Wide>
struct conv_backward_shares {
  static constexpr int a = Narrow::first::conv, b = Narrow::second::conv;
  static constexpr int alone = a > b ? a - b : b - a;  ///< of either direction
  static constexpr int warps_of(int channels, int each) { return (channels / each + 31) / 32; }
  static constexpr int single = warps_of(alone, Wide::vector);
  static constexpr int both = warps_of(Narrow::convolved - alone, Narrow::vector);
  static constexpr int warps = 2 * single + both, blocks = (32 * warps + Narrow::threads - 1) / Narrow::threads;
  static_assert(alone <= Narrow::convolved && alone % Wide::vector == 0 && a >= b);
};

/// Block (part of the runs, some warps' channels). In the published variant the second direction's channels begin
/// before the first's, and where only one convolves, the other's z has written.
template <class Narrow, class Wide, class T>
__global__ void __launch_bounds__(Narrow::threads, conv_backward_resident)
    conv_backward_kernel(conv_backward_operands<T> p) {
  using shares = conv_backward_shares<Narrow, Wide>;
  int const warp = int(blockIdx.y) * (Narrow::threads / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (warp < shares::single) {
    int const channel = (warp * 32 + lane) * Wide::vector;
    if (channel < shares::alone) conv_channels<Wide, false, true, true, T>{p, shares::b + channel}.run();
  } else if (warp < shares::single + shares::both) {
    int const channel = ((warp - shares::single) * 32 + lane) * Narrow::vector;
    if (channel < Narrow::convolved - shares::alone)
      conv_channels<Narrow, true, true, false, T>{p, shares::a + channel}.run();
  } else {
    int const channel = ((warp - shares::single - shares::both) * 32 + lane) * Wide::vector;
    if (channel < shares::alone)
      conv_channels<Wide, true, false, true, T>{p, shares::b + Narrow::convolved + channel}.run();
  }
}

/// The steps' part: with raw the projection's dt, draw = ddt sigmoid(raw + bias). Block (part of the rows, up to 256
/// heads): a thread goes down rows of one head. parts [gridDim.x, 2, H] get the sums for dt_bias in the parameters'
/// order.
template <class Tr, class T>
__global__ void __launch_bounds__(256) steps_backward_kernel(T const* zxbcdt, float const* ddt, direction_pair p,
                                                             T* dzxbcdt, float* parts, std::size_t n, int length) {
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;
  constexpr int H = Tr::heads, heads = H < 256 ? H : 256, rows = 256 / heads;
  __shared__ float reduced[2][256];
  int const head = int(blockIdx.y) * heads + int(threadIdx.x) % heads, place = int(threadIdx.x) / heads;
  bool const active = place < rows && head < H;
  float sum[2] = {};
  if (active) {
    float const bias_a = p.direction[0].dt_bias[arranged<a_direction>(head, H)];
    float const bias_b = p.direction[1].dt_bias[arranged<b_direction>(head, H)];
    for (std::size_t row = std::size_t{blockIdx.x} * rows + std::size_t(place); row < n;
         row += std::size_t{gridDim.x} * rows) {
      T const* const from = zxbcdt + row * Tr::projected + head;
      T* const to = dzxbcdt + row * Tr::projected + head;
      float const a = ddt[direction_row<a_direction>(row, n, length) * H + std::size_t(head)] *
                      sigmoid(to_float(from[a_direction::dt]) + bias_a);
      float const b = ddt[direction_row<b_direction>(row, n, length) * H + std::size_t(head)] *
                      sigmoid(to_float(from[b_direction::dt]) + bias_b);
      sum[0] += a, sum[1] += b;
      if (Tr::reverse_tokens) {
        to[a_direction::dt] = from_float<T>(a + b);
      } else {  // where the other direction's z has written
        to[a_direction::dt] = from_float<T>(to_float(to[a_direction::dt]) + a);
        to[b_direction::dt] = from_float<T>(to_float(to[b_direction::dt]) + b);
      }
    }
  }
  reduced[0][threadIdx.x] = sum[0], reduced[1][threadIdx.x] = sum[1];
  __syncthreads();
  if (int(threadIdx.x) >= heads || head >= H) return;
  float* const out = parts + std::size_t{blockIdx.x} * (2 * H);
  float total[2] = {};
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < 2; ++d) total[d] += reduced[d][r * heads + int(threadIdx.x)];
  out[arranged<a_direction>(head, H)] = total[0];
  out[H + arranged<b_direction>(head, H)] = total[1];
}

}  // namespace dm2::cuda::detail::mixer_core
