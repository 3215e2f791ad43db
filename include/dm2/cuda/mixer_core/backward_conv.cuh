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
#include <dm2/cuda/tile/own_ring.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

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

/// Registers of the last K tokens' numbers where U come in a step: a token's take the place of that U tokens before, so
/// that none move; of more taps than that the last K - 1 move once a step.
template <int K, int U>
struct conv_window {
  static constexpr bool turns = K <= U;
  static constexpr int size = turns ? U : K - 1 + U;
  /// Of the token `ago` before the step's token u.
  static constexpr __device__ int place(int u, int ago = 0) { return turns ? (u - ago + U) % U : K - 1 + u - ago; }
  /// Behind a step.
  template <int V>
  static __device__ void next(float (&numbers)[size][V]) {
    if constexpr (!turns)
#pragma unroll
      for (int k = 0; k < K - 1; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v) numbers[k][v] = numbers[U + k][v];
  }
};

/// One direction's convolution of V channels, going down the tokens. `Reversed`: it reads them in reverse. Taps are
/// halved and dp doubled, so that the recomputed sum is the argument of tanh.
template <class Tr, bool Reversed, class T>
struct conv_march {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, places = U;
  static constexpr int lag = Reversed ? K - 1 : 0;  ///< tokens by which its result is behind raw
  using window = conv_window<K, U>;

  float taps[K][V], bias[V];              ///< halved, taps in the order in which raw meets them
  float dtaps[K][V] = {}, dbias[V] = {};  ///< doubled
  float dp[window::size][V];              ///< doubled
  T const* du;                            ///< of the direction's first row
  int stride, channel;                    ///< of du; the first of the V, in the order of tokens in memory
  bool second;

  __device__ conv_march(conv_backward_operands<T> const& p, int channel_, bool second_)
      : channel{channel_}, second{second_} {
    if (second)
      aim<typename Tr::second>(p);
    else
      aim<typename Tr::first>(p);
  }
  template <class Dir>
  __device__ void aim(conv_backward_operands<T> const& p) {
    auto const of = slice_of<Dir>(p.dx, p.db, p.dc, channel);
    stride = of.stride;
    du = of.data + (Dir::out != 0 ? p.n * std::size_t(stride) : 0);
    float own[K][V];
    load_taps<Dir>(p.p.direction[Dir::out != 0], channel, own, bias);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      bias[v] *= 0.5f;
#pragma unroll
      for (int k = 0; k < K; ++k) taps[k][v] = 0.5f * own[Reversed ? K - 1 - k : k][v];
    }
  }
  __device__ void start() {
#pragma unroll
    for (int i = 0; i < window::size; ++i)
#pragma unroll
      for (int v = 0; v < V; ++v) dp[i][v] = 0;
  }
  /// Where du for raw's token s of the sequence whose first row is `first` lies.
  [[nodiscard]] __device__ T const* at(std::size_t first, int s, int length) const {
    return du + (std::ptrdiff_t(first) + (Reversed ? length - 1 - (s - lag) : s)) * stride;
  }
  /// Starts the loads of du for raw's tokens s .. s + U - 1, the first at `from`, to places of the ring from `place`
  /// on, and leaves `from` at that for the next step. Inside: all of them and of their results are tokens that the
  /// caller counts.
  template <bool Inside, class Ring>
  __device__ void load(Ring const& ring, int place, T const*& from, int s, int length) const {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      int const t = s + u - lag;
      ring.start(place + u, from, Inside || (t >= 0 && t < length));
      from += Reversed ? -stride : stride;
    }
  }
  /// raw has token s + u and the K - 1 before it; `out` gets this direction's part of draw of token
  /// s + u - (K - 1). Counted: dp of this token is one of the sums'.
  __device__ void step(int u, vector_numbers<T, V> const& slope, float const (&raw)[window::size][V], bool counted,
                       float (&out)[V]) {
    float d[V];
    slope.get(d);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float h = bias[v];
#pragma unroll
      for (int k = 0; k < K; ++k) h = fmaf(taps[k][v], raw[window::place(u, K - 1 - k)][v], h);
      dp[window::place(u)][v] = d[v] * double_silu_slope<T>(h);
#pragma unroll
      for (int k = 0; k < K; ++k) out[v] = fmaf(taps[k][v], dp[window::place(u, k)][v], out[v]);
    }
    if (!counted) return;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      dbias[v] += dp[window::place(u)][v];
#pragma unroll
      for (int k = 0; k < K; ++k)
        dtaps[k][v] = fmaf(dp[window::place(u)][v], raw[window::place(u, K - 1 - k)][v], dtaps[k][v]);
    }
  }
  __device__ void next() { window::next(dp); }
  __device__ void write(float* parts) const {
    float* const to = parts + (std::size_t{blockIdx.x} * 2 + (second ? 1 : 0)) * std::size_t(Tr::convolved * (K + 1));
#pragma unroll
    for (int v = 0; v < V; ++v) {
      int const own = second ? arranged<typename Tr::second>(channel + v, Tr::convolved)
                             : arranged<typename Tr::first>(channel + v, Tr::convolved);
#pragma unroll
      for (int k = 0; k < K; ++k) to[own * K + k] = 0.5f * dtaps[Reversed ? K - 1 - k : k][v];
      to[Tr::convolved * K + own] = 0.5f * dbias[v];
    }
  }
};

/// No second direction.
template <class Tr, class T>
struct conv_nothing {
  static constexpr int places = 0, lag = 0;
  __device__ conv_nothing(conv_backward_operands<T> const&, int, bool) {}
  __device__ void start() {}
  [[nodiscard]] __device__ T const* at(std::size_t, int, int) const { return nullptr; }
  template <bool, class Ring>
  __device__ void load(Ring const&, int, T const*&, int, int) const {}
  template <class Raw>
  __device__ void step(int, vector_numbers<T, Tr::vector> const&, Raw const&, bool, float (&)[Tr::vector]) {}
  __device__ void next() {}
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
  /// Whether it went on to another unit, or to none.
  template <class T>
  __device__ bool next(conv_backward_operands<T> const& p) {
    s += U;
    if (s < t1 + K - 1) return false;
    unit += int(gridDim.x);
    if (!over(p)) begin(p, unit);
    return true;
  }
  template <class T>
  [[nodiscard]] __device__ bool over(conv_backward_operands<T> const& p) const {
    return unit >= p.sequences * p.runs;
  }
  /// Whether every token that comes in or goes out is one of the unit's.
  [[nodiscard]] __device__ bool inside() const { return s >= t0 + K - 1 && s + U <= t1; }
  /// Whether the token that it completes with its token u is one of the unit's.
  [[nodiscard]] __device__ bool leaves(int u) const { return s + u - (K - 1) >= t0 && s + u - (K - 1) < t1; }
  /// Whether token s + u is.
  [[nodiscard]] __device__ bool has(int u) const { return s + u >= t0 && s + u < t1; }
};

/// V channels of the projection from `channel` on, which one direction convolves, or both. `Both`: first and second;
/// else one of them, the same code for either, added to what dzxbcdt holds. With a body of code for each direction 17 %
/// of the stalls on an H200 were for instructions.
template <class Tr, bool Both, class T>
struct conv_channels {
  static constexpr int V = Tr::vector, K = Tr::taps, U = Tr::steps, pitch = Tr::projected;
  static constexpr bool add = !Both;
  using numbers = vector_numbers<T, V>;
  using window = conv_window<K, U>;
  using a_march = conv_march<Tr, false, T>;
  using b_march = std::conditional_t<Both, conv_march<Tr, Tr::reverse_tokens, T>, conv_nothing<Tr, T>>;
  // A step's places in the ring: raw, both directions' du, what dzxbcdt holds of the tokens that it completes.
  static constexpr int a_place = U, b_place = a_place + a_march::places, before = b_place + b_march::places;
  static constexpr int places = before + (add ? U : 0);
  static constexpr int stages = std::clamp(49152 / (places * Tr::threads * V * int(sizeof(T))), 2, 3);
  using ring = own_ring<T, V, places, stages>;

  conv_backward_operands<T> const& p;
  int channel;
  ring numbers_ahead;
  a_march a;
  b_march b;
  float raw[window::size][V];
  conv_step<Tr> now, front;
  T *to, *held;                   ///< dzxbcdt of the tokens s of `now` and `front`
  T const *in, *a_from, *b_from;  ///< the other operands' of `front`

  __device__ conv_channels(conv_backward_operands<T> const& p_, int channel_, bool second, unsigned char* own)
      : p{p_},
        channel{channel_},
        numbers_ahead{own},
        a{p_, channel_ - (second ? Tr::second::conv : Tr::first::conv), second},
        b{p_, channel_ - Tr::second::conv, true} {}

  [[nodiscard]] __device__ std::ptrdiff_t place(conv_step<Tr> const& at) const {
    return (std::ptrdiff_t(at.first) + at.s) * pitch + channel;
  }
  __device__ void aim_front() {
    in = p.zxbcdt + place(front);
    if constexpr (add) held = p.dzxbcdt + place(front);
    a_from = a.at(front.first, front.s, p.length), b_from = b.at(front.first, front.s, p.length);
  }
  /// Starts a step's loads.
  template <bool Inside>
  __device__ void load() {
    bool const results = Inside || front.s >= front.t0;
#pragma unroll
    for (int u = 0; u < U; ++u)
      numbers_ahead.start(u, in + u * pitch, Inside || (front.s + u >= 0 && front.s + u < p.length));
    if (!results) {
      a_from = a.at(front.first, front.s + U, p.length), b_from = b.at(front.first, front.s + U, p.length);
      return;
    }
    a.template load<Inside>(numbers_ahead, a_place, a_from, front.s, p.length);
    b.template load<Inside>(numbers_ahead, b_place, b_from, front.s, p.length);
    if constexpr (add)
#pragma unroll
      for (int u = 0; u < U; ++u)
        numbers_ahead.start(before + u, held + (u - (K - 1)) * pitch, Inside || front.leaves(u));
  }
  /// The loads of the step in front, which goes on.
  __device__ void load_next() {
    if (!front.over(p)) {
      if (front.inside())
        load<true>();
      else
        load<false>();
      in += U * pitch;
      if constexpr (add) held += U * pitch;
      if (front.next(p)) aim_front();
    }
    numbers_ahead.commit();
  }
  template <bool Inside>
  __device__ void results() {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      float out[V] = {};
      if constexpr (add) numbers_ahead.take(before + u).get(out);
      numbers_ahead.take(u).get(raw[window::place(u)]);
      a.step(u, numbers_ahead.take(a_place + u), raw, Inside || now.has(u - a_march::lag), out);
      b.step(u, numbers_ahead.take(Both ? b_place + u : 0), raw, Inside || now.has(u - b_march::lag), out);
      if (Inside || now.leaves(u)) numbers::store(to + (u - (K - 1)) * pitch, out);
    }
  }

  /// Unit after unit; the loads go on from one to the next.
  __device__ void run() {
    now.begin(p, int(blockIdx.x)), front.begin(p, int(blockIdx.x));
    to = p.dzxbcdt + place(now);
    aim_front();
#pragma unroll 1
    for (int i = 0; i < stages - 1; ++i) load_next();
#pragma unroll 1
    while (!now.over(p)) {
      numbers_ahead.wait();
      load_next();
      if (now.inside()) {
        results<true>();
      } else if (now.s >= now.t0) {
        results<false>();
      } else {
        a.start(), b.start();
#pragma unroll
        for (int u = 0; u < U; ++u) numbers_ahead.take(u).get(raw[window::place(u)]);
      }
      numbers_ahead.release();
      window::next(raw), a.next(), b.next();
      to += U * pitch;
      if (now.next(p)) to = p.dzxbcdt + place(now);
    }
    a.write(p.parts), b.write(p.parts);
  }
};

/// Blocks of a multiprocessor that the registers are for. Four fit too, with 128 registers of a thread for 137 to 148,
/// and take 153 us of an H200 for 144 (256 of 197 of Tiny).
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

/// Into how many runs a sequence's tokens are cut, tokens of a run, and parts that share all sequences' runs.
struct conv_cut {
  int runs, run, parts;

  /// Runs of at least 16 tokens, as many of a sequence as keep `most` parts busy; a run reads taps - 1 tokens more.
  static conv_cut make(int sequences, int length, int taps, int most) {
    conv_cut cut{};
    double best = 0;
    for (int count = 1; count == 1 || (length + count - 1) / count >= 16; ++count) {
      int const tokens = (length + count - 1) / count, all = (length + tokens - 1) / tokens;
      int const units = std::max(sequences * all, 1), each = (units + most - 1) / most;
      double const time = double(each) * (tokens + taps - 1);  // of the slowest part
      if (best != 0 && time > 0.98 * best) continue;
      best = time, cut = {.runs = all, .run = tokens, .parts = (units + each - 1) / each};
    }
    return cut;
  }
};

/// Parts, each done by several blocks, that the registers of 132 multiprocessors hold at a time.
template <class Narrow, class Wide>
constexpr int most_conv_parts() {
  return std::max(1, conv_backward_resident * 132 / conv_backward_shares<Narrow, Wide>::blocks);
}

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
inline constexpr int conv_backward_bytes = std::max(conv_channels<Wide, false, T>::ring::bytes,
                                                    conv_channels<Narrow, true, T>::ring::bytes);

/// Block (part of the runs, some warps' channels). In the published variant the second direction's channels begin
/// before the first's, and where only one convolves, the other's z has written.
///
/// Warps with the same place in their blocks, which a quarter of a multiprocessor runs, take neighbouring work: most of
/// its warps run the same code.
template <class Narrow, class Wide, class T>
__global__ void __launch_bounds__(Narrow::threads, conv_backward_resident)
    conv_backward_kernel(conv_backward_operands<T> p) {
  using shares = conv_backward_shares<Narrow, Wide>;
  alignas(16) __shared__ unsigned char rings[Narrow::threads / 32][conv_backward_bytes<Narrow, Wide, T>];
  unsigned char* const ring = rings[threadIdx.x / 32];
  int const warp = int(threadIdx.x) / 32 * int(gridDim.y) + int(blockIdx.y), lane = int(threadIdx.x) % 32;
  if (warp >= shares::warps) {
    int const own = int(blockIdx.x) * shares::step_warps + warp - shares::warps;
    return steps_backward<Narrow>(p, own, int(gridDim.x) * shares::step_warps, reinterpret_cast<float*>(ring));
  }
  if (warp >= 2 * shares::single) {
    int const channel = ((warp - 2 * shares::single) * 32 + lane) * Narrow::vector;
    if (channel < Narrow::convolved - shares::alone)
      conv_channels<Narrow, true, T>{p, shares::a + channel, false, ring}.run();
    return;
  }
  if constexpr (shares::alone > 0) {
    bool const second = warp < shares::single;
    int const channel = ((second ? warp : warp - shares::single) * 32 + lane) * Wide::vector;
    if (channel < shares::alone)
      conv_channels<Wide, false, T>{p, shares::b + (second ? 0 : Narrow::convolved) + channel, second, ring}.run();
  }
}

}  // namespace dm2::cuda::detail::mixer_core
