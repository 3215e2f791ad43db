/// @file
/// An optimizer's step on the GPU: gradient norm, Lion or AdamW, average.
///
/// The step updates weights, their average and their rounded copy, and clears the gradients, in one pass over flat
/// buffers.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/optimizer_options.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dm2::cuda {

/// What becomes of the numbers of a line. Every tensor begins at one, so that none has two kinds.
struct update_line {
  static constexpr int size = 64;             ///< numbers
  static constexpr std::uint16_t still = 0;   ///< statistics, and what nothing reads: only the average follows them
  static constexpr std::uint16_t moved = 1;   ///< by the optimizer
  static constexpr std::uint16_t second = 2;  ///< the second of a pair, which is moved with the first
  /// pair + d: the first of a pair that is one memory in the published run (optimizer_options::shared_pairs), whose
  /// second is d lines on.
  static constexpr std::uint16_t pair = 2;
};

/// What a step's gradients amount to, in device memory.
struct gradient_measure {
  double norm;   ///< of the scaled gradients of the trained parameters, before clipping
  float factor;  ///< what the optimizer multiplies them by: the scale, and where the norm is above the limit, the clip
};

namespace detail {

/// Blocks of the sum, on every device, so that it does not depend on the device's size: eight for each of an H100's 132
/// multiprocessors. A block sums consecutive lines, half a warp one after the other.
inline constexpr int norm_blocks = 1056, norm_threads = 256, norm_teams = norm_threads / 16;

/// The squares of a line's numbers, in each of the sixteen lanes. In double, since a float's square is out of float's
/// range for a good part of floats.
__device__ inline double squares_of_line(float const* line, int lane) {
  packet<float, 4> const v = load_packet<4>(line + 4 * lane);
  double sum = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) sum += double(v.v[k]) * double(v.v[k]);
  return sum_over_lanes<16>(sum);
}

/// sums [lines]: the squares of each moved line, 0 of the others.
template <class T>
__global__ void __launch_bounds__(norm_threads)
    line_squares_kernel(T const* x, std::uint16_t const* kinds, std::uint32_t lines, double* sums) {
  int const lane = int(threadIdx.x % 16);
  std::uint32_t const line = blockIdx.x * norm_teams + threadIdx.x / 16;
  bool const inside = line < lines;  // the other half of the warp may be
  double const sum = squares_of_line(x + std::size_t{inside ? line : lines - 1} * update_line::size, lane);
  if (lane == 0 && inside) sums[line] = kinds[line] == update_line::still ? 0 : sum;
}

/// parts [norm_blocks]: the squares of the moved lines of each block, from x, or from `sums` where they are known: the
/// same parts to the last bit. Blocks begin with the last lines: the optimizer, which begins with the first, finds
/// those in the cache.
template <class T>
__global__ void __launch_bounds__(norm_threads)
    squares_kernel(T const* x, double const* sums, std::uint16_t const* kinds, std::uint32_t lines, double* parts) {
  __shared__ double teams[norm_teams];
  std::uint32_t const block = norm_blocks - 1 - blockIdx.x;
  int const lane = int(threadIdx.x % 16), team = int(threadIdx.x / 16);
  auto const first_of = [&](std::uint32_t b) { return std::uint32_t(std::uint64_t{lines} * b / norm_blocks); };
  double sum = 0;
  // All lanes of a warp go through the loop together: they exchange numbers in it.
  for (std::uint32_t at = first_of(block); at < first_of(block + 1); at += norm_teams) {
    std::uint32_t const line = at + std::uint32_t(team);
    bool const inside = line < first_of(block + 1);
    double square = 0;
    if (sums != nullptr)
      square = inside ? sums[line] : 0;
    else
      square = squares_of_line(x + std::size_t{inside ? line : at} * update_line::size, lane);
    if (inside && kinds[line] != update_line::still) sum += square;
  }
  if (lane == 0) teams[team] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (double const part : teams) total += part;
  parts[block] = total;
}

/// The sum over the block, in thread 0; `tree` [norm_threads] is shared.
__device__ inline double sum_of_threads(double x, double* tree) {
  int const thread = int(threadIdx.x);
  tree[thread] = x;
  for (int half = norm_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) tree[thread] += tree[thread + half];
  }
  return tree[0];
}

template <class T>
__global__ void __launch_bounds__(norm_threads)
    norm_kernel(T const* parts, double scale, double limit, gradient_measure* measure, finite_check check) {
  __shared__ double tree[norm_threads];
  double sum = 0;
  for (int i = int(threadIdx.x); i < norm_blocks; i += norm_threads) sum += parts[i];
  sum = sum_of_threads(sum, tree);
  if (threadIdx.x != 0) return;
  double const norm = sqrt(sum) * fabs(scale), clip = limit / (norm + 1e-6);
  measure->norm = norm;
  measure->factor = float(limit > 0 && clip < 1 ? scale * clip : scale);
  report_unless_finite(check, norm, bad_number::gradient);
}

/// Packets of four that are whole lines; throws shape_error where n is not.
inline std::uint32_t whole_lines(char const* name, std::size_t n) {
  require_extent(name, n % update_line::size, 0);
  if (n / 4 > 0x7fffffffu) throw shape_error{std::string{name} + ": more than 2^33 numbers"};
  return std::uint32_t(n / 4);
}

}  // namespace detail

/// What is measured of gradients, and where it goes.
struct measure_options {
  double limit = 0;      ///< the norm that longer gradients are scaled down to; 0 leaves them alone
  double scale = 1;      ///< undoes what the losses were multiplied by beyond the mean over micro-batches
  finite_check check{};  ///< told of a norm that is not finite
};

namespace detail {

/// measure_gradients from x, or from the lines' `sums`.
template <precision P>
void measure_lines(context<P>& ctx, float const* x, double const* sums, std::uint16_t const* kinds, std::uint32_t lines,
                   measure_options const& o, gradient_measure* measure) {
  if (!ctx.reserve(norm_blocks * sizeof(double) + arena::alignment)) return;
  arena_scope const scope{ctx.shared()};
  double* const parts = ctx.shared().template take<double>(norm_blocks);
  launch("measure_gradients", squares_kernel<float>, {norm_blocks, norm_threads}, ctx.stream(), x, sums, kinds, lines,
         parts);
  launch("measure_gradients", norm_kernel<double>, {1, norm_threads}, ctx.stream(), parts, o.scale, o.limit, measure,
         o.check);
}

}  // namespace detail

/// measure = the norm of scale times the gradients, and the factor for the optimizer; a norm that is not finite, as it
/// is with any gradient that is not, is reported.
///
/// Shapes   gradients [n], 16-byte aligned; lines [n / 64], as update_lines makes them: those that are still are left
///          out; n a multiple of 64; measure and check's: on the device.
/// Writes   measure (=).
/// Throws   shape_error if n is no multiple of 64.
template <precision P>
void measure_gradients(context<P>& ctx, float const* gradients, std::uint16_t const* lines, std::size_t n,
                       measure_options const& options, gradient_measure* measure) {
  std::uint32_t const count = detail::whole_lines("measure_gradients.n modulo 64", n) / (update_line::size / 4);
  detail::measure_lines(ctx, gradients, nullptr, lines, count, options, measure);
}

/// The first half of measure_gradients, where several processes have a part of the gradients each: the squares of each
/// moved line.
///
/// Shapes   gradients [n], lines [n / 64]; sums [n / 64] (=). Throws shape_error if n is no multiple of 64.
template <precision P>
void measure_line_squares(context<P>& ctx, float const* gradients, std::uint16_t const* lines, std::size_t n,
                          double* sums) {
  std::uint32_t const count = detail::whole_lines("measure_line_squares.n modulo 64", n) / (update_line::size / 4);
  if (!ctx.reserve(0) || n == 0) return;
  detail::launch("measure_line_squares", detail::line_squares_kernel<float>,
                 {detail::blocks_for(count, detail::norm_teams), detail::norm_threads}, ctx.stream(), gradients, lines,
                 count, sums);
}

/// The second half: measure from all lines' sums [n / 64], as measure_gradients has it from the gradients themselves,
/// to the last bit.
template <precision P>
void measure_from_lines(context<P>& ctx, double const* sums, std::uint16_t const* lines, std::size_t n,
                        measure_options const& options, gradient_measure* measure) {
  std::uint32_t const count = detail::whole_lines("measure_from_lines.n modulo 64", n) / (update_line::size / 4);
  detail::measure_lines(ctx, nullptr, sums, lines, count, options, measure);
}

/// What changes from step to step: made on the host in double, read from device memory, so that one graph replays.
struct step_scalars {
  float keep;         ///< 1 - lr decay
  float rate;         ///< Lion: lr; AdamW: lr / (1 - beta1^step)
  float root;         ///< AdamW: 1 / sqrt(1 - beta2^step)
  float follow;       ///< 1 - the average's decay; at 1 the average becomes the weights
  std::int64_t step;  ///< counted from 1
};

/// The scalars of step `step` = 1, 2, ..., rounded as the CPU's optimizer rounds them.
[[nodiscard]] inline step_scalars make_step_scalars(optimizer_options const& o, std::int64_t step, double lr,
                                                    double average_decay) {
  bool const adamw = o.kind == optimizer_kind::adamw;
  double const t = double(step), rate = adamw ? lr / (1 - std::pow(o.beta1, t)) : lr;
  double const root = adamw ? 1 / std::sqrt(1 - std::pow(o.beta2, t)) : 0;
  return {.keep = float(1 - lr * o.weight_decay),
          .rate = float(rate),
          .root = float(root),
          .follow = float(1 - average_decay),
          .step = step};
}

/// A group's part of step_scalars (parameter_groups).
struct group_rates {
  float keep;  ///< as step_scalars::keep, with the group's rate and decay
  float rate;  ///< as step_scalars::rate, with the group's rate
};

/// The rates of a group whose rate is `scale` times lr and whose decay is `decay`.
[[nodiscard]] inline group_rates make_group_rates(optimizer_options const& o, std::int64_t step, double lr,
                                                  double scale, double decay) {
  step_scalars const s = make_step_scalars(dm2::detail::with_decay(o, decay), step, lr * scale, 0);
  return {s.keep, s.rate};
}

/// The groups of the lines, on the device; nothing where all lines have the scalars' rates.
struct grouped_lines {
  std::uint8_t const* group = nullptr;  ///< of each line; what still lines have is not looked at
  group_rates const* rates = nullptr;   ///< of each group
};

/// What an update does with each line of 64 numbers, on the device.
struct moved_lines {
  std::uint16_t const* kinds = nullptr;  ///< as update_lines<C>(rule) makes them
  grouped_lines groups;                  ///< nothing where all lines have the scalars' rates
};

/// Flat buffers that are laid out as a model's state, 16-byte aligned. All but weights, gradients and first may be
/// null; AdamW wants second too.
template <class E>
struct update_buffers {
  float* weights;    ///< moved
  float* gradients;  ///< read; zero afterwards where that is asked for
  float* first;      ///< Lion's momentum, or AdamW's first moment
  float* second;     ///< AdamW's second moment
  float* average;    ///< of every number of the state, the still ones too
  E* rounded;        ///< the weights as products read them
};

namespace detail {

template <class E>
struct update_call {
  update_buffers<E> to;
  std::uint16_t const* lines;
  grouped_lines groups;
  step_scalars const* scalars;
  gradient_measure const* measure;  ///< or null for a factor of 1
  finite_guard const* guard;        ///< or null
  std::uint32_t packets;
  float beta1, rest1, beta2, rest2, eps;
  bool clear;
};

using four = packet<float, 4>;

/// One number's step. The products that are added last are the CPU's, whose compiler may fuse them or not.
template <bool Adamw, class E>
__device__ inline void move_number(update_call<E> const& c, step_scalars const& s, float& p, float g, float& m,
                                   float& v) {
  if constexpr (Adamw) {
    m = fmaf(c.beta1, m, c.rest1 * g);
    v = fmaf(c.beta2, v, c.rest2 * g * g);
    p = fmaf(p, s.keep, -(s.rate * m / fmaf(sqrtf(v), s.root, c.eps)));
  } else {
    float const direction = fmaf(c.beta1, m, c.rest1 * g);
    float const sign = float(int(direction > 0) - int(direction < 0));
    p = fmaf(p, s.keep, -s.rate * sign);
    m = fmaf(c.beta2, m, c.rest2 * g);
  }
}

/// Four neighbouring numbers of every buffer.
template <bool Adamw>
struct update_packet {
  four p, g, m, v, average;

  /// Everything but p, which is the caller's.
  template <class E>
  __device__ void load(update_call<E> const& c, std::uint32_t i) {
    std::size_t const at = std::size_t{i} * 4;
    g = load_packet<4>(c.to.gradients + at);
    m = load_packet<4>(c.to.first + at);
    if constexpr (Adamw) v = load_packet<4>(c.to.second + at);
    average = c.to.average == nullptr ? four{} : load_packet<4>(c.to.average + at);
  }
  template <class E>
  __device__ void move(update_call<E> const& c, step_scalars const& s, float factor) {
#pragma unroll
    for (int k = 0; k < 4; ++k) move_number<Adamw>(c, s, p.v[k], g.v[k] * factor, m.v[k], v.v[k]);
  }
  template <class E>
  __device__ void store_moved(update_call<E> const& c, std::uint32_t i) const {
    std::size_t const at = std::size_t{i} * 4;
    store_packet<4>(c.to.weights + at, p);
    store_packet<4>(c.to.first + at, m);
    if constexpr (Adamw) store_packet<4>(c.to.second + at, v);
  }
  /// What is done for every packet, moved or still: the average follows p, the rounded copy is p, the gradients are 0.
  template <class E>
  __device__ void finish(update_call<E> const& c, step_scalars const& s, std::uint32_t i) {
    std::size_t const at = std::size_t{i} * 4;
    if (c.to.average != nullptr) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        average.v[k] = s.follow == 1.f ? p.v[k] : fmaf(-s.follow, average.v[k] - p.v[k], average.v[k]);
      store_packet<4>(c.to.average + at, average);
    }
    if (c.to.rounded != nullptr) {
      packet<E, 4> rounded;
#pragma unroll
      for (int k = 0; k < 4; ++k) rounded.v[k] = from_float<E>(p.v[k]);
      store_packet<4>(c.to.rounded + at, rounded);
    }
    if (c.clear) store_packet<4>(c.to.gradients + at, four{});
  }
};

/// A thread four numbers at a time; a pair's first and second are one thread's. Reads come before the line's kind is
/// looked at, so that none waits for it.
template <bool Adamw, class E>
__global__ void __launch_bounds__(256) update_kernel(update_call<E> c) {
  constexpr std::uint32_t line = update_line::size / 4;
  if (c.guard != nullptr && c.guard->step != 0) return;
  step_scalars s = *c.scalars;
  float const factor = c.measure == nullptr ? 1.f : c.measure->factor;
  auto const take_rates = [&](std::uint32_t packet) {
    if (c.groups.group == nullptr) return;
    group_rates const own = c.groups.rates[c.groups.group[packet / line]];
    s.keep = own.keep;
    s.rate = own.rate;
  };
  for (std::uint32_t i = blockIdx.x * 256 + threadIdx.x; i < c.packets; i += gridDim.x * 256) {
    std::uint16_t const kind = c.lines[i / line];
    update_packet<Adamw> own;
    own.p = load_packet<4>(c.to.weights + std::size_t{i} * 4);
    own.load(c, i);
    if (kind == update_line::second) continue;
    take_rates(i);
    if (kind != update_line::still) own.move(c, s, factor);
    if (kind > update_line::pair) {
      std::uint32_t const at = i + std::uint32_t(kind - update_line::pair) * line;
      update_packet<Adamw> other;
      other.p = own.p;
      other.load(c, at);
      take_rates(at);
      other.move(c, s, factor);
      other.store_moved(c, at);
      other.finish(c, s, at);
      own.p = other.p;
    }
    if (kind != update_line::still) own.store_moved(c, i);
    own.finish(c, s, i);
  }
}

}  // namespace detail

/// One step: as optimizer::step and then ema::step, with the gradients times measure->factor.
///
/// Lion     p <- p (1 - lr decay) - lr sign(beta1 m + (1 - beta1) g),  m <- beta2 m + (1 - beta2) g
/// AdamW    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
///          p <- p (1 - lr decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// Average  a <- a - (1 - decay) (a - p), of the still lines too
///
/// Shapes   every buffer [n], n a multiple of 64; lines.kinds [n / 64], as update_lines<C>(rule) makes them, and so
///          lines.groups; scalars, measure, guard on the device. measure and guard may be null: a factor of 1, and no
///          guard.
/// Writes   weights, moments, average (updated), the rounded copy (=), gradients (= 0 with `clear`). Where guard names
///          a step, nothing.
/// Bytes    30 a number with Lion, average and a 16-bit copy, 34 with the clearing: 0.32 GB for 9.5 million.
/// Throws   shape_error if n is no multiple of 64.
template <precision P, class E>
void optimizer_step(context<P>& ctx, optimizer_options const& rule, update_buffers<E> const& buffers,
                    moved_lines const& lines, std::size_t n, step_scalars const* scalars,
                    gradient_measure const* measure, finite_guard const* guard, bool clear) {
  std::uint32_t const packets = detail::whole_lines("optimizer_step.n modulo 64", n);
  if (!ctx.reserve(0) || n == 0) return;
  detail::update_call<E> const call{.to = buffers,
                                    .lines = lines.kinds,
                                    .groups = lines.groups,
                                    .scalars = scalars,
                                    .measure = measure,
                                    .guard = guard,
                                    .packets = packets,
                                    .beta1 = float(rule.beta1),
                                    .rest1 = float(1 - rule.beta1),
                                    .beta2 = float(rule.beta2),
                                    .rest2 = float(1 - rule.beta2),
                                    .eps = float(rule.eps),
                                    .clear = clear};
  auto const kernel =
      rule.kind == optimizer_kind::adamw ? detail::update_kernel<true, E> : detail::update_kernel<false, E>;
  detail::launch_shape shape{1, 256};
  shape.grid = detail::resident_blocks("optimizer_step", kernel, shape, ctx.device().multiprocessors,
                                       int(detail::blocks_for(packets, 256)));
  detail::launch("optimizer_step", kernel, shape, ctx.stream(), call);
}

}  // namespace dm2::cuda
