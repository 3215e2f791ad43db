/// @file
/// The convolution's backward as it was before its code was shared.
///
/// A body each for the first direction's channels, the second's and those of both, windows that move on a register a
/// token, addresses made anew: what conv_backward_bench.cu compares with and times. Remove it with that benchmark.
#pragma once

#include <dm2/cuda/mixer_core/backward_conv.cuh>
#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::bench::earlier {

using namespace cuda;
using namespace cuda::detail;
using namespace cuda::detail::mixer_core;

/// Stages of `Places` times V numbers of T for each lane of a warp, which has memory of its own. Every lane goes
/// through
///     start(place, ...) ..., commit()   Stages - 1 times
///     wait(), start(place, ...) ..., commit(), take(place) ..., release()   for each stage that it reads
/// with stages of no copies at the end.
template <class T, int V, int Places, int Stages>
class own_ring {
 public:
  using numbers = vector_numbers<T, V>;
  static constexpr int each = V * int(sizeof(T)), stage = Places * 32 * each;
  static constexpr int bytes = Stages * stage;  ///< of a warp's shared memory
  static_assert(Stages >= 2, "dm2::cuda::detail::own_ring: nothing is ahead");

  __device__ explicit own_ring(unsigned char* warps_own) : own_{warps_own + threadIdx.x % 32 * unsigned(each)} {}

  /// Starts the copy of V numbers; zeros where `valid` is false, and `from` is not read then.
  __device__ void start(int place, T const* from, bool valid) const {
    unsigned char* const to = own_ + in_ + place * (32 * each);
    if constexpr (each >= 4)
      copy_async<each>(shared_address(to), from, valid);
    else  // too small for a copy beside the thread's own work
      *reinterpret_cast<numbers*>(to) = numbers::load_if(valid, from);
  }
  __device__ void commit() {
    commit_copies();
    in_ = next(in_);
  }
  /// Waits for the oldest stage.
  __device__ void wait() const { wait_copies<Stages - 2>(); }
  [[nodiscard]] __device__ numbers take(int place) const {
    return *reinterpret_cast<numbers const*>(own_ + out_ + place * (32 * each));
  }
  __device__ void release() { out_ = next(out_); }

 private:
  static __device__ int next(int at) { return at + stage == bytes ? 0 : at + stage; }
  unsigned char* own_;
  int in_ = 0, out_ = 0;
};

template <class T>
struct conv_backward_operands {
  T const* zxbcdt;    ///< [n, projected]
  T *dx, *db, *dc;    ///< [2 n, ...] of both directions
  T* dzxbcdt;         ///< [n, projected]: (=), or (+=) where a direction's z has been written
  float* parts;       ///< [gridDim.x, 2, convolved (taps + 1)]: sums for taps, then bias, in the parameters' order
  float const* ddt;   ///< [2 n, H]
  float* step_parts;  ///< [gridDim.x step_warps, 2, H]: sums for dt_bias
  direction_pair p;
  std::size_t n;
  int length, sequences;
  int runs;  ///< of a sequence's tokens; block x does run i % runs of sequence i / runs for i = x, x + gridDim.x, ...
  int run;   ///< tokens
};

/// Twice the slope of silu at 2 h. For 16 bits from one tanh.
template <class T>
__device__ inline float double_silu_slope(float h) {
  if constexpr (is_half<T>) {
    float const t = tanh_fast(h);
    return 1.f + fmaf(h, fmaf(-t, t, 1.f), t);
  }
  float const s = sigmoid(2.f * h);
  return 2.f * fmaf(2.f * h * s, 1.f - s, s);
}

/// One direction's convolution of V channels, going down the tokens. Taps are halved and dp doubled, so that the
/// recomputed sum is the argument of tanh.
template <class Tr, class Dir, class T>
struct conv_march {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, places = U;
  static constexpr int lag = Dir::reverse_tokens ? K - 1 : 0;  ///< tokens by which its result is behind raw

  float taps[K][V], bias[V];              ///< halved, taps in the order in which raw meets them
  float dtaps[K][V] = {}, dbias[V] = {};  ///< doubled
  float dp[K - 1 + U][V];                 ///< doubled
  convolved_slice<T> du;
  int channel;

  __device__ conv_march(conv_backward_operands<T> const& p, int channel_)
      : du{slice_of<Dir>(p.dx, p.db, p.dc, channel_)}, channel{channel_} {
    if (Dir::out != 0) du.data += p.n * std::size_t(du.stride);
    float own[K][V];
    load_taps<Dir>(p.p.direction[Dir::out != 0], channel, own, bias);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      bias[v] *= 0.5f;
#pragma unroll
      for (int k = 0; k < K; ++k) taps[k][v] = 0.5f * own[Dir::reverse_tokens ? K - 1 - k : k][v];
    }
  }
  __device__ void start() {
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) dp[k][v] = 0;
  }
  /// Starts the loads of du for raw's tokens s .. s + U - 1 of the sequence whose first row is `first`, to places of
  /// the ring from `place` on. Inside: all of them and of their results are tokens that the caller counts.
  template <bool Inside, class Ring>
  __device__ void load(Ring const& ring, int place, std::size_t first, int s, int length) const {
    constexpr int down = Dir::reverse_tokens ? -1 : 1;
    int const start = Dir::reverse_tokens ? length - 1 - (s - lag) : s;
    T const* const from = du.data + (std::ptrdiff_t(first) + start) * du.stride;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      int const t = s + u - lag;
      ring.start(place + u, from + down * u * du.stride, Inside || (t >= 0 && t < length));
    }
  }
  /// raw[K - 1 + u] is token s + u; out[u] gets this direction's part of draw of token s + u - (K - 1). Sums count the
  /// tokens [t0, t1).
  template <bool Inside, class Ring>
  __device__ void step(Ring const& ring, int place, float const (&raw)[K - 1 + U][V], int s, int t0, int t1,
                       float (&out)[U][V]) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      float d[V];
      ring.take(place + u).get(d);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float h = bias[v];
#pragma unroll
        for (int k = 0; k < K; ++k) h = fmaf(taps[k][v], raw[u + k][v], h);
        dp[K - 1 + u][v] = d[v] * double_silu_slope<T>(h);
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
      for (int k = 0; k < K; ++k) to[own * K + k] = 0.5f * dtaps[Dir::reverse_tokens ? K - 1 - k : k][v];
      to[Tr::convolved * K + own] = 0.5f * dbias[v];
    }
  }
};

/// A direction that does not have the channels.
template <class Tr, class Dir, class T>
struct conv_nothing {
  static constexpr int places = 0;
  __device__ conv_nothing(conv_backward_operands<T> const&, int) {}
  __device__ void start() {}
  template <bool, class Ring>
  __device__ void load(Ring const&, int, std::size_t, int, int) const {}
  template <bool, class Ring>
  __device__ void step(Ring const&, int, float const (&)[Tr::taps - 1 + Tr::steps][Tr::vector], int, int, int,
                       float (&)[Tr::steps][Tr::vector]) {}
  __device__ void write(float*) const {}
};

/// A step of a thread: the unit of work, its part, tokens [t0, t1) of the sequence whose first row is `first`, and the
/// first of the tokens that come in.
template <class Tr>
struct conv_step {
  static constexpr int K = Tr::taps, U = Tr::steps;
  static constexpr int ahead = (K - 1 + U - 1) / U * U;  ///< tokens that come in before the first result
  int unit, t0, t1, s;
  std::size_t first;

  template <class T>
  __device__ void begin(conv_backward_operands<T> const& p, int unit_) {
    unit = unit_, t0 = unit % p.runs * p.run, t1 = min(t0 + p.run, p.length), s = t0 - ahead;
    first = std::size_t(unit / p.runs) * std::size_t(p.length);
  }
  template <class T>
  __device__ void next(conv_backward_operands<T> const& p) {
    s += U;
    if (s < t1 + K - 1) return;
    unit += int(gridDim.x);
    if (!over(p)) begin(p, unit);
  }
  template <class T>
  [[nodiscard]] __device__ bool over(conv_backward_operands<T> const& p) const {
    return unit >= p.sequences * p.runs;
  }
  /// Whether every token that comes in or goes out is one of the unit's.
  [[nodiscard]] __device__ bool inside() const { return s >= t0 + K - 1 && s + U <= t1; }
  /// Whether the token that it completes with its token u is one of the unit's.
  [[nodiscard]] __device__ bool leaves(int u) const { return s + u - (K - 1) >= t0 && s + u - (K - 1) < t1; }
};

/// V channels of the projection from `channel` on, which the first direction convolves, or the second, or both. `Add`:
/// to what dzxbcdt holds.
template <class Tr, bool First, bool Second, bool Add, class T>
struct conv_channels {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, pitch = Tr::projected;
  using numbers = vector_numbers<T, V>;
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;
  using a_march = std::conditional_t<First, conv_march<Tr, a_direction, T>, conv_nothing<Tr, a_direction, T>>;
  using b_march = std::conditional_t<Second, conv_march<Tr, b_direction, T>, conv_nothing<Tr, b_direction, T>>;
  // A step's places in the ring: raw, both directions' du, what dzxbcdt holds of the tokens that it completes.
  static constexpr int a_place = U, b_place = a_place + a_march::places, before = b_place + b_march::places;
  static constexpr int places = before + (Add ? U : 0);
  static constexpr int stages = std::clamp(49152 / (places * Tr::threads * V * int(sizeof(T))), 2, 3);
  using ring = own_ring<T, V, places, stages>;

  conv_backward_operands<T> const& p;
  int channel;
  ring numbers_ahead;
  a_march a;
  b_march b;
  float raw[K - 1 + U][V];

  __device__ conv_channels(conv_backward_operands<T> const& p_, int channel_, unsigned char* own)
      : p{p_},
        channel{channel_},
        numbers_ahead{own},
        a{p_, channel_ - a_direction::conv},
        b{p_, channel_ - b_direction::conv} {}

  /// Starts a step's loads.
  template <bool Inside>
  __device__ void load(conv_step<Tr> const& at) {
    T const* const in = p.zxbcdt + (std::ptrdiff_t(at.first) + at.s) * pitch + channel;
#pragma unroll
    for (int u = 0; u < U; ++u)
      numbers_ahead.start(u, in + u * pitch, Inside || (at.s + u >= 0 && at.s + u < p.length));
    if (!Inside && at.s < at.t0) return;
    a.template load<Inside>(numbers_ahead, a_place, at.first, at.s, p.length);
    b.template load<Inside>(numbers_ahead, b_place, at.first, at.s, p.length);
    if (!Add) return;
    T const* const held = p.dzxbcdt + (std::ptrdiff_t(at.first) + at.s - (K - 1)) * pitch + channel;
#pragma unroll
    for (int u = 0; u < U; ++u) numbers_ahead.start(before + u, held + u * pitch, Inside || at.leaves(u));
  }
  /// The loads of the step in front, which goes on.
  __device__ void load_next(conv_step<Tr>& front) {
    if (!front.over(p)) {
      if (front.inside())
        load<true>(front);
      else
        load<false>(front);
      front.next(p);
    }
    numbers_ahead.commit();
  }
  template <bool Inside>
  __device__ void results(conv_step<Tr> const& at) {
    float out[U][V] = {};
    if (Add)
#pragma unroll
      for (int u = 0; u < U; ++u) numbers_ahead.take(before + u).get(out[u]);
    a.template step<Inside>(numbers_ahead, a_place, raw, at.s, at.t0, at.t1, out);
    b.template step<Inside>(numbers_ahead, b_place, raw, at.s, at.t0, at.t1, out);
    T* const to = p.dzxbcdt + (std::ptrdiff_t(at.first) + at.s) * pitch + channel;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (Inside || at.leaves(u)) numbers::store(to + (u - (K - 1)) * pitch, out[u]);
  }

  /// Unit after unit; the loads go on from one to the next.
  __device__ void run() {
    conv_step<Tr> at, front;
    at.begin(p, int(blockIdx.x)), front.begin(p, int(blockIdx.x));
    for (int i = 0; i < stages - 1; ++i) load_next(front);
#pragma unroll 1
    for (; !at.over(p); at.next(p)) {
      numbers_ahead.wait();
      load_next(front);
#pragma unroll
      for (int u = 0; u < U; ++u) numbers_ahead.take(u).get(raw[K - 1 + u]);
      if (at.s < at.t0)
        a.start(), b.start();
      else if (at.inside())
        results<true>(at);
      else
        results<false>(at);
      numbers_ahead.release();
#pragma unroll
      for (int k = 0; k < K - 1; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) raw[k][v] = raw[U + k][v];
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
  static constexpr int warps = 2 * single + both, all = warps + (Narrow::heads + 31) / 32;
  static constexpr int blocks = (32 * all + Narrow::threads - 1) / Narrow::threads;
  /// Behind them, warps for the steps.
  static constexpr int step_warps = blocks * Narrow::threads / 32 - warps;
  static_assert(alone <= Narrow::convolved && alone % Wide::vector == 0 && a >= b);
};

/// draw of a head's steps of both directions in the rows begin, begin + stride ..., and its sums over them.
template <class Tr, class T>
__device__ inline float2 steps_of_head(conv_backward_operands<T> const& p, int head, std::size_t begin,
                                       std::size_t stride) {
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;
  constexpr int H = Tr::heads, batch = 4;
  float const bias_a = p.p.direction[0].dt_bias[arranged<a_direction>(head, H)];
  float const bias_b = p.p.direction[1].dt_bias[arranged<b_direction>(head, H)];
  float2 sum{0, 0};
  for (std::size_t first = begin; first < p.n; first += batch * stride) {
    float2 ddt[batch], raw[batch], held[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {  // loads first
      std::size_t const row = first + i * stride < p.n ? first + i * stride : first;
      T const *const from = p.zxbcdt + row * Tr::projected + head, *const to = p.dzxbcdt + row * Tr::projected + head;
      ddt[i].x = p.ddt[direction_row<a_direction>(row, p.n, p.length) * H + std::size_t(head)];
      ddt[i].y = p.ddt[direction_row<b_direction>(row, p.n, p.length) * H + std::size_t(head)];
      raw[i] = {to_float(from[a_direction::dt]), to_float(from[b_direction::dt])};
      // where the other direction's z has written
      held[i] =
          Tr::reverse_tokens ? float2{0, 0} : float2{to_float(to[a_direction::dt]), to_float(to[b_direction::dt])};
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      std::size_t const row = first + i * stride;
      if (row >= p.n) break;
      T* const to = p.dzxbcdt + row * Tr::projected + head;
      float const a = ddt[i].x * sigmoid(raw[i].x + bias_a), b = ddt[i].y * sigmoid(raw[i].y + bias_b);
      sum.x += a, sum.y += b;
      if (Tr::reverse_tokens)
        to[a_direction::dt] = from_float<T>(a + b);
      else
        to[a_direction::dt] = from_float<T>(held[i].x + a), to[b_direction::dt] = from_float<T>(held[i].y + b);
    }
  }
  return sum;
}

/// The steps' part: with raw the projection's dt, draw = ddt sigmoid(raw + bias). One warp of `count`: every lane goes
/// down rows of one head, up to 32 heads at a time. Its [2, H] get the sums for dt_bias in the parameters' order.
/// `reduced` [64] is shared memory of the warp.
template <class Tr, class T>
__device__ inline void steps_backward(conv_backward_operands<T> const& p, int warp, int count, float* reduced) {
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;
  constexpr int H = Tr::heads, heads = H < 32 ? H : 32, rows = 32 / heads;
  int const lane = int(threadIdx.x) % 32, place = lane / heads;
  float* const out = p.step_parts + std::size_t(warp) * (2 * H);
  for (int first = 0; first < H; first += heads) {
    int const head = first + lane % heads;
    float2 sum{0, 0};
    if (place < rows && head < H)
      sum = steps_of_head<Tr>(p, head, std::size_t(warp) * rows + std::size_t(place), std::size_t(count) * rows);
    reduced[lane] = sum.x, reduced[32 + lane] = sum.y;
    __syncwarp();
    if (place == 0 && head < H) {
      float total[2] = {};
      for (int r = 0; r < rows; ++r)
        for (int d = 0; d < 2; ++d) total[d] += reduced[d * 32 + r * heads + lane];
      out[arranged<a_direction>(head, H)] = total[0];
      out[H + arranged<b_direction>(head, H)] = total[1];
    }
    __syncwarp();
  }
}

/// Shared memory of a warp of conv_backward_kernel.
template <class Narrow, class Wide, class T>
inline constexpr int conv_backward_bytes = std::max({conv_channels<Wide, false, true, true, T>::ring::bytes,
                                                     conv_channels<Narrow, true, true, false, T>::ring::bytes,
                                                     conv_channels<Wide, true, false, true, T>::ring::bytes});

/// Block (part of the runs, some warps' channels). In the published variant the second direction's channels begin
/// before the first's, and where only one convolves, the other's z has written.
template <class Narrow, class Wide, class T>
__global__ void __launch_bounds__(Narrow::threads, conv_backward_resident)
    conv_backward_kernel(conv_backward_operands<T> p) {
  using shares = conv_backward_shares<Narrow, Wide>;
  alignas(16) __shared__ unsigned char rings[Narrow::threads / 32][conv_backward_bytes<Narrow, Wide, T>];
  unsigned char* const ring = rings[threadIdx.x / 32];
  int const warp = int(blockIdx.y) * (Narrow::threads / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (warp >= shares::warps) {
    int const own = int(blockIdx.x) * shares::step_warps + warp - shares::warps;
    steps_backward<Narrow>(p, own, int(gridDim.x) * shares::step_warps, reinterpret_cast<float*>(ring));
  } else if (warp < shares::single) {
    int const channel = (warp * 32 + lane) * Wide::vector;
    if (channel < shares::alone) conv_channels<Wide, false, true, true, T>{p, shares::b + channel, ring}.run();
  } else if (warp < shares::single + shares::both) {
    int const channel = ((warp - shares::single) * 32 + lane) * Narrow::vector;
    if (channel < Narrow::convolved - shares::alone)
      conv_channels<Narrow, true, true, false, T>{p, shares::a + channel, ring}.run();
  } else {
    int const channel = ((warp - shares::single - shares::both) * 32 + lane) * Wide::vector;
    if (channel < shares::alone)
      conv_channels<Wide, true, false, true, T>{p, shares::b + Narrow::convolved + channel, ring}.run();
  }
}

}  // namespace dm2::bench::earlier
