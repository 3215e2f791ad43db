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
  static constexpr int tokens = 16;               ///< of the convolution, a thread
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr int kept = (group + 31) / 32;  ///< numbers of a group that a lane holds
  static constexpr bool keep = kept <= 64;        ///< a group fits a warp's registers; otherwise it is computed twice
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

/// SiLU of the convolution of one channel, for the same tokens.
template <class Tr, class T>
__device__ inline void write_convolved(T const* zxbcdt, direction_parameters const& p, scan_arrays<T> const& to,
                                       int channel, std::size_t first, int t0, int t1, int length) {
  bool const is_x = channel >= Tr::x && channel < Tr::x + Tr::inner;
  bool const is_b = channel >= Tr::b && channel < Tr::b + Tr::states;
  T* const out = is_x ? to.x + (channel - Tr::x) : is_b ? to.b + (channel - Tr::b) : to.c + (channel - Tr::c);
  int const width = is_x ? Tr::inner : Tr::states, own = arranged<Tr>(channel, Tr::convolved);
  auto const input = [&](int t) {
    if (t < 0) return 0.f;
    return to_float(zxbcdt[(first + std::size_t(source_token<Tr>(t, length))) * Tr::projected + Tr::conv + channel]);
  };
  float taps[Tr::taps], window[Tr::taps];
#pragma unroll
  for (int k = 0; k < Tr::taps; ++k) {
    taps[k] = p.conv[own * Tr::taps + k];
    window[k] = input(t0 - Tr::taps + k);  // the window of token t0 - 1
  }
  float const bias = p.conv_bias[own];
  for (int t = t0; t < t1; ++t) {
    float sum = bias;
#pragma unroll
    for (int k = 0; k < Tr::taps; ++k) {
      window[k] = k + 1 < Tr::taps ? window[k + 1 < Tr::taps ? k + 1 : k] : input(t);
      sum = fmaf(taps[k], window[k], sum);
    }
    out[(first + std::size_t(t)) * std::size_t(width)] = from_float<T>(silu(sum));
  }
}

/// Block (i, j): Tr::tokens tokens of one sequence, Tr::threads of the convolution's channels and the heads after them.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    scan_inputs_kernel(T const* zxbcdt, direction_parameters p, scan_arrays<T> to, int length, int parts) {
  int const channel = int(blockIdx.y * Tr::threads + threadIdx.x);
  int const t0 = int(blockIdx.x % unsigned(parts)) * Tr::tokens, t1 = min(t0 + Tr::tokens, length);
  std::size_t const first = std::size_t{blockIdx.x / unsigned(parts)} * std::size_t(length);
  if (channel < Tr::convolved)
    write_convolved<Tr>(zxbcdt, p, to, channel, first, t0, t1, length);
  else if (channel < Tr::convolved + Tr::heads)
    write_steps<Tr>(zxbcdt, p, to, channel - Tr::convolved, first, t0, t1, length);
}

/// g = y silu(z) / sqrt(mean of its square + 1e-5) norm, the mean inside each group of channels; its factor to factors
/// [rows, 2, groups] as well, where they are not null. A warp takes one group of one token.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    gate_and_norm_kernel(T const* y, T const* zxbcdt, float const* norm, T* g, float* factors, std::size_t count,
                         int length) {
  std::size_t const work = std::size_t{blockIdx.x} * Tr::warps + threadIdx.x / 32;
  if (work >= count * Tr::groups) return;
  std::size_t const row = work / Tr::groups, first = row / std::size_t(length) * std::size_t(length);
  int const start = int(work % Tr::groups) * Tr::group, lane = int(threadIdx.x % 32);
  std::size_t const source = first + std::size_t(source_token<Tr>(int(row - first), length));
  T const *const in = y + row * Tr::inner + start, *const z = zxbcdt + source * Tr::projected + Tr::z + start;
  T* const out = g + source * (2 * Tr::inner) + Tr::out + start;
  auto const gated = [&](int i) { return i < Tr::group ? to_float(in[i]) * gate_silu_as<T>(to_float(z[i])) : 0.f; };
  float kept[Tr::keep ? Tr::kept : 1];
  float sum = 0;
#pragma unroll(Tr::keep ? Tr::kept : 1)
  for (int j = 0; j < Tr::kept; ++j) {
    float const v = gated(j * 32 + lane);
    sum = fmaf(v, v, sum);
    if constexpr (Tr::keep) kept[j] = v;
  }
  float const scale = 1.f / sqrtf(sum_over_warp(sum) / float(Tr::group) + mixer_norm_eps);
  if (factors != nullptr && lane == 0) factors[(source * 2 + (Tr::out != 0)) * Tr::groups + work % Tr::groups] = scale;
#pragma unroll(Tr::keep ? Tr::kept : 1)
  for (int j = 0; j < Tr::kept; ++j) {
    int const i = j * 32 + lane;
    if (i >= Tr::group) continue;
    float const v = Tr::keep ? kept[Tr::keep ? j : 0] : gated(i);
    out[i] = from_float<T>(v * weighted<T>(scale, norm[arranged<Tr>(start + i, Tr::inner)]));
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

template <bool Second, mixer_shape M, precision P>
void run_direction(context<P>& ctx, rows<element<P> const, M.projected(), space::device> zxbcdt,
                   mixer_direction<M, float const, space::device> const& p,
                   rows<element<P>, 2 * M.d_inner(), space::device> g, int length, float* factors,
                   direction_scratch<M, element<P>> const& s) {
  using T = element<P>;
  using traits = direction_traits<M, Second>;
  constexpr int inner = traits::inner;
  std::size_t const n = zxbcdt.count;
  direction_parameters const raw{.conv = p.conv.data,
                                 .conv_bias = p.conv_bias.data,
                                 .dt_bias = p.dt_bias.data,
                                 .a_log = p.a_log.data,
                                 .d = p.d.data,
                                 .norm = p.norm.data};
  int const parts = (length + traits::tokens - 1) / traits::tokens;
  dim3 const grid(unsigned(n / std::size_t(length)) * unsigned(parts),
                  blocks_for(traits::convolved + traits::heads, traits::threads));
  launch("mixer_core: convolution", scan_inputs_kernel<traits, T>, {grid, traits::threads}, ctx.stream(), zxbcdt.data,
         raw, s.in, length, parts);
  ssd_input<M, T> const operands{.x = {s.in.x, n},
                                 .dt = {s.in.dt, n},
                                 .a = block<float const, space::device, M.heads>{s.in.a},
                                 .b = {s.in.b, n},
                                 .c = {s.in.c, n},
                                 .d = block<float const, space::device, M.heads>{s.in.d},
                                 .length = length};
  ssd::scan_composed(ctx, operands, rows<T, inner, space::device>{s.y, n}, s.scan);
  launch("mixer_core: gate and norm", gate_and_norm_kernel<traits, T>,
         {blocks_for(n * traits::groups, traits::warps), traits::threads}, ctx.stream(), s.y, zxbcdt.data, p.norm.data,
         g.data, factors, n, length);
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
