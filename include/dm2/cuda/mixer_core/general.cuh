/// @file
/// The mixer core, composed: for any shape, length and precision.
///
/// Two kernels around the scan: convolution with SiLU and softplus before it, gate and norm after it. The scan is on
/// tensor cores where the whole mixer has no kernel there but the scan has.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/mixer_core/gate.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/squares.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// One direction of the mixer. The second of the published variant reads all channels in reverse; with its parameters
/// reversed instead, it is an ordinary direction over the mirrored slices [dt | C | B | x | z]. Tokens are counted in
/// the direction's own order.
template <mixer_shape M, bool Second>
struct direction_traits {
  static constexpr bool reverse_channels = Second && M.variant == mixer_variant::published;
  static constexpr bool reverse_tokens = Second && M.variant == mixer_variant::bidirectional;
  static constexpr int heads = M.heads, inner = M.d_inner(), states = M.groups * M.d_state, convolved = M.conv_dim();
  static constexpr int projected = M.projected(), taps = M.d_conv, groups = M.groups, group = inner / groups;
  // where the projection's slices start, then the convolution's
  static constexpr int z = reverse_channels ? heads + convolved : 0, conv = reverse_channels ? heads : inner;
  static constexpr int dt = reverse_channels ? 0 : inner + convolved;
  static constexpr int x = reverse_channels ? 2 * states : 0, b = reverse_channels ? states : inner;
  static constexpr int c = reverse_channels ? 0 : inner + states;
  static constexpr int out = Second ? inner : 0;  ///< where its channels of the result start
  static constexpr int tokens = 16, ahead = 4;    ///< of the convolution: a thread's, and those it reads at a time
  static constexpr int warps = 8, threads = 32 * warps;
  /// Channels of an access where operands are aligned to as many: every slice starts at a multiple of it.
  static constexpr int vector = (inner | states | projected | group | z | conv | x | b | c) % 4 == 0 ? 4 : 1;
};

/// Entry i of n parameters in the order in which the direction's channels are walked.
template <class Tr>
__device__ inline int arranged(int i, int n) {
  return Tr::reverse_channels ? n - 1 - i : i;
}
/// The input's token that the direction has at t.
template <class Tr>
__device__ inline int source_token(int t, int length) {
  return Tr::reverse_tokens ? length - 1 - t : t;
}

/// One direction's parameters as the state dict has them.
struct direction_parameters {
  float const *conv, *conv_bias, *dt_bias, *a_log, *d, *norm;
};

/// What the scan reads, in the direction's order of tokens and channels.
template <class T>
struct scan_arrays {
  T *x, *b, *c;  ///< [B L, d_inner], [B L, G N] twice
  float* dt;     ///< [B L, H]
  float *a, *d;  ///< [H]
};

/// dt of one head for tokens [t0, t1) of the sequence that starts at row `first`; once, A and D too.
template <class Tr, class T>
__device__ inline void write_steps(T const* zxbcdt, direction_parameters const& p, scan_arrays<T> const& to, int head,
                                   std::size_t first, int t0, int t1, int length) {
  int const own = arranged<Tr>(head, Tr::heads);
  float const bias = p.dt_bias[own];
#pragma unroll 1
  for (int t = t0; t < t1; t += 4) {  // loads first, since stores may be to the same memory
    float raw[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::size_t const row = first + std::size_t(source_token<Tr>(min(t + i, t1 - 1), length));
      raw[i] = to_float(zxbcdt[row * Tr::projected + Tr::dt + head]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (t + i < t1) to.dt[(first + std::size_t(t + i)) * Tr::heads + head] = softplus(raw[i] + bias);
  }
  if (first != 0 || t0 != 0) return;
  to.a[head] = -expf(p.a_log[own]);
  to.d[head] = p.d[own];
}

/// V channels' taps and bias.
template <class Tr, int V>
struct convolution_taps {
  float tap[Tr::taps][V], bias[V];

  __device__ convolution_taps(direction_parameters const& p, int channel) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      int const own = arranged<Tr>(channel + v, Tr::convolved);
      bias[v] = p.conv_bias[own];
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) tap[k][v] = p.conv[own * Tr::taps + k];
    }
  }
  /// SiLU of the convolution of the tokens from window[i] on.
  template <int N>
  __device__ void convolve(float const (&window)[N][V], int i, float (&out)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float sum = bias[v];
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) sum = fmaf(tap[k][v], window[i + k][v], sum);
      out[v] = divided_silu(sum);
    }
  }
};

/// SiLU of the convolution of V channels, for the same tokens. Tr::ahead tokens are read before any is written, since
/// the compiler cannot know that the arrays do not overlap.
template <class Tr, int V, class T>
__device__ inline void write_convolved(T const* zxbcdt, direction_parameters const& p, scan_arrays<T> const& to,
                                       int channel, std::size_t first, int t0, int t1, int length) {
  using numbers = vector_numbers<T, V>;
  constexpr int before = Tr::taps - 1;
  bool const is_x = channel >= Tr::x && channel < Tr::x + Tr::inner;
  bool const is_b = channel >= Tr::b && channel < Tr::b + Tr::states;
  T* const out = is_x ? to.x + (channel - Tr::x) : is_b ? to.b + (channel - Tr::b) : to.c + (channel - Tr::c);
  int const width = is_x ? Tr::inner : Tr::states;
  auto const input = [&](int t) {
    int const inside = min(max(t, 0), t1 - 1);
    return numbers::load_if(
        t == inside,
        zxbcdt + (first + std::size_t(source_token<Tr>(inside, length))) * Tr::projected + Tr::conv + channel);
  };
  convolution_taps<Tr, V> const taps{p, channel};
  float window[before + Tr::ahead][V];
#pragma unroll
  for (int k = 0; k < before; ++k) input(t0 - before + k).get(window[k]);
#pragma unroll 1
  for (int t = t0; t < t1; t += Tr::ahead) {
    numbers in[Tr::ahead];
#pragma unroll
    for (int i = 0; i < Tr::ahead; ++i) in[i] = input(t + i);
#pragma unroll
    for (int i = 0; i < Tr::ahead; ++i) {
      in[i].get(window[before + i]);
      float sum[V];
      taps.convolve(window, i, sum);
      if (t + i < t1) numbers::store(out + (first + std::size_t(t + i)) * std::size_t(width), sum);
    }
#pragma unroll
    for (int k = 0; k < before; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) window[k][v] = window[k + Tr::ahead][v];
  }
}

/// Threads of a block of the convolution, a thread V channels or a head's steps: whole warps.
template <class Tr, int V>
inline constexpr int convolution_threads = std::min((Tr::convolved / V + Tr::heads + 31) / 32 * 32, Tr::threads);

/// Block (i, j): Tr::tokens tokens of one sequence, a block's threads of the convolution's channels, V a thread, and
/// the heads after them.
template <class Tr, int V, class T>
__global__ void __launch_bounds__(convolution_threads<Tr, V>)
    scan_inputs_kernel(T const* zxbcdt, direction_parameters p, scan_arrays<T> to, int length, int parts) {
  constexpr int pieces = Tr::convolved / V;
  int const piece = int(blockIdx.y) * convolution_threads<Tr, V> + int(threadIdx.x);
  int const t0 = int(blockIdx.x % unsigned(parts)) * Tr::tokens, t1 = min(t0 + Tr::tokens, length);
  std::size_t const first = std::size_t{blockIdx.x / unsigned(parts)} * std::size_t(length);
  if (piece < pieces)
    write_convolved<Tr, V>(zxbcdt, p, to, piece * V, first, t0, t1, length);
  else if (piece < pieces + Tr::heads)
    write_steps<Tr>(zxbcdt, p, to, piece - pieces, first, t0, t1, length);
}

/// V weights of the norm from channel i on, in the direction's order.
template <class Tr, int V>
__device__ inline packet<float, V> norm_weights(float const* norm, int i) {
  if constexpr (!Tr::reverse_channels) return load_packet<V>(norm + i);
  auto const mirrored = load_packet<V>(norm + (Tr::inner - V - i));
  packet<float, V> w;
#pragma unroll
  for (int v = 0; v < V; ++v) w.v[v] = mirrored.v[V - 1 - v];
  return w;
}

/// g = y silu(z) / sqrt(mean of its square + 1e-5) norm, the mean inside each group of channels; its factor to factors
/// [rows, 2, groups] as well, where they are not null. A warp takes one group of one token, V channels an access.
template <class Tr, int V, class T>
__global__ void __launch_bounds__(Tr::threads)
    gate_and_norm_kernel(T const* y, T const* zxbcdt, float const* norm, T* g, float* factors, std::size_t count,
                         int length) {
  using numbers = vector_numbers<T, V>;
  constexpr int step = 32 * V, kept_steps = (Tr::group + step - 1) / step;
  constexpr bool keep = kept_steps * V <= 64;  // a group fits a warp's registers; otherwise it is computed twice
  std::size_t const work = std::size_t{blockIdx.x} * Tr::warps + threadIdx.x / 32;
  if (work >= count * Tr::groups) return;
  std::size_t const row = work / Tr::groups, first = row / std::size_t(length) * std::size_t(length);
  int const start = int(work % Tr::groups) * Tr::group, lane = int(threadIdx.x % 32);
  std::size_t const source = first + std::size_t(source_token<Tr>(int(row - first), length));
  T const *const in = y + row * Tr::inner + start, *const z = zxbcdt + source * Tr::projected + Tr::z + start;
  T* const out = g + source * (2 * Tr::inner) + Tr::out + start;
  auto const gated = [&](int i, float(&v)[V]) {
    float gate[V];
    numbers::load_if(i < Tr::group, in + i).get(v);
    numbers::load_if(i < Tr::group, z + i).get(gate);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] *= gate_silu_as<T>(gate[k]);
  };
  float kept[keep ? kept_steps : 1][V];
  float sum = 0;
#pragma unroll(keep ? kept_steps : 1)
  for (int j = 0; j < kept_steps; ++j) {
    float(&v)[V] = kept[keep ? j : 0];
    gated(j * step + lane * V, v);
#pragma unroll
    for (int k = 0; k < V; ++k) sum = fmaf(v[k], v[k], sum);
  }
  float const scale = 1.f / sqrtf(sum_over_warp(sum) / float(Tr::group) + mixer_norm_eps);
  if (factors != nullptr && lane == 0) factors[(source * 2 + (Tr::out != 0)) * Tr::groups + work % Tr::groups] = scale;
#pragma unroll(keep ? kept_steps : 1)
  for (int j = 0; j < kept_steps; ++j) {
    int const i = j * step + lane * V;
    if (i >= Tr::group) continue;
    float(&v)[V] = kept[keep ? j : 0];
    if constexpr (!keep) gated(i, v);
    auto const w = norm_weights<Tr, V>(norm, start + i);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] *= weighted<T>(scale, w.v[k]);
    numbers::store(out + i, v);
  }
}

/// What one direction keeps between its kernels, and the second then overwrites: for Tiny in float, 4.1 KB a token, and
/// what the scan has.
template <mixer_shape M, class T>
struct direction_scratch {
  scan_arrays<T> in;
  T* y;  ///< [B L, d_inner], what the scan gives
  ssd::composed_scratch<M, T, traits<T, M>::possible> scan;

  direction_scratch(arena& s, device_properties const& device, std::size_t count, int length)
      : scan{s, device, int(count / std::size_t(length)), length} {
    constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
    in.x = s.template take<T>(count * inner);
    in.b = s.template take<T>(count * states);
    in.c = s.template take<T>(count * states);
    in.dt = s.template take<float>(count * M.heads);
    in.a = s.template take<float>(M.heads);
    in.d = s.template take<float>(M.heads);
    y = s.template take<T>(count * inner);
  }
};

/// One direction, V channels an access.
template <bool Second, int V, mixer_shape M, precision P>
void launch_direction(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                      mixer_direction<M, float const, space::device> const& p,
                      rows<element<P>, 2 * M.d_inner(), space::device> g, int length, float* factors,
                      direction_scratch<M, element<P>> const& s) {
  using T = element<P>;
  using traits = direction_traits<M, Second>;
  constexpr int inner = traits::inner, threads = convolution_threads<traits, V>;
  std::size_t const n = zxbcdt.count;
  direction_parameters const raw{.conv = p.conv.data,
                                 .conv_bias = p.conv_bias.data,
                                 .dt_bias = p.dt_bias.data,
                                 .a_log = p.a_log.data,
                                 .d = p.d.data,
                                 .norm = p.norm.data};
  int const parts = (length + traits::tokens - 1) / traits::tokens;
  dim3 const grid(unsigned(n / std::size_t(length)) * unsigned(parts),
                  blocks_for(traits::convolved / V + traits::heads, threads));
  launch("mixer_core: convolution", scan_inputs_kernel<traits, V, T>, {grid, threads}, ctx.stream(), zxbcdt.data, raw,
         s.in, length, parts);
  ssd_input<M, T> const operands{.x = {s.in.x, n},
                                 .dt = {s.in.dt, n},
                                 .a = block<float const, space::device, M.heads>{s.in.a},
                                 .b = {s.in.b, n},
                                 .c = {s.in.c, n},
                                 .d = block<float const, space::device, M.heads>{s.in.d},
                                 .length = length};
  ssd::scan_composed(ctx, operands, rows<T, inner, space::device>{s.y, n}, s.scan);
  launch("mixer_core: gate and norm", gate_and_norm_kernel<traits, V, T>,
         {blocks_for(n * traits::groups, traits::warps), traits::threads}, ctx.stream(), s.y, zxbcdt.data, p.norm.data,
         g.data, factors, n, length);
}

/// One direction, with the widest accesses that shapes and addresses allow.
template <bool Second, mixer_shape M, precision P>
void run_direction(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                   mixer_direction<M, float const, space::device> const& p,
                   rows<element<P>, 2 * M.d_inner(), space::device> g, int length, float* factors,
                   direction_scratch<M, element<P>> const& s) {
  constexpr int V = direction_traits<M, Second>::vector;
  if constexpr (V > 1)
    if (packets_at<V>(zxbcdt.data) && packets_at<V>(g.data) && packets_at<V>(p.norm.data))
      return launch_direction<Second, V, M>(ctx, zxbcdt, p, g, length, factors, s);
  launch_direction<Second, 1, M>(ctx, zxbcdt, p, g, length, factors, s);
}

/// From the input projection to what the output projections read, for both directions of the mixer.
///
/// Direction d of sequence b: u = silu(conv(xBC)), y = scan(u) + D x, g = RMSNorm(y silu(z)) norm. x, B, C and y are
/// rounded to the context's element between the kernels.
///
/// Shapes   zxbcdt [B L, projected], channels [z, x, B, C, dt]; g [B L, 2 d_inner], the first direction's channels,
///          then the second's. In the published variant the second's are in reverse, as it computes them:
///          fold_output_projection accounts for that. `length` = L tokens a sequence, any L >= 1.
/// Writes   g (=), which does not overlap zxbcdt, and factors (=), as mixer_core.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <mixer_shape M, precision P>
void launch_general(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                    mixer_parameters<M, float const, space::device> const& p,
                    rows<element<P>, 2 * M.d_inner(), space::device> g, int length, float* factors = nullptr) {
  static_cast<void>(whole_sequences("mixer_core.zxbcdt", zxbcdt.count, length));
  require_extent("mixer_core.g rows", g.count, zxbcdt.count);
  if (!ctx.reserve(planned_bytes<direction_scratch<M, element<P>>>(ctx.device(), zxbcdt.count, length)) ||
      zxbcdt.count == 0)
    return;
  arena_scope const scope{ctx.shared()};
  direction_scratch<M, element<P>> const scratch{ctx.shared(), ctx.device(), zxbcdt.count, length};
  run_direction<false, M>(ctx, zxbcdt, p.forward, g, length, factors, scratch);
  run_direction<true, M>(ctx, zxbcdt, p.backward, g, length, factors, scratch);
}

}  // namespace dm2::cuda::detail::mixer_core
