/// @file
/// The gradient's norm, the factor that clips it, and whether it is finite; all of it stays on the device.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/update_lines.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dm2::cuda {

/// What a step's gradients amount to, in device memory.
struct gradient_measure {
  double norm;   ///< of the scaled gradients of the trained parameters, before clipping
  float factor;  ///< what the optimiser multiplies them by: the scale, and where the norm is above the limit, the clip
};

namespace detail {

/// Blocks of the sum, on every device, so that it does not depend on the device's size: eight for each of an H100's 132
/// multiprocessors.
inline constexpr int norm_blocks = 1056, norm_threads = 256;

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

/// The squares of the moved lines' numbers, from the last number to the first: the optimiser, which begins at the first,
/// finds those in the cache. In double, since a float's square is out of float's range for a good part of floats.
template <class T>
__global__ void __launch_bounds__(norm_threads)
    squares_kernel(T const* __restrict__ x, std::uint16_t const* __restrict__ lines, std::uint32_t packets,
                   double* parts) {
  constexpr std::uint32_t line = update_line::size / 4, stride = norm_blocks * norm_threads;
  __shared__ double tree[norm_threads];
  double sum = 0;
#pragma unroll 2
  for (std::uint32_t i = blockIdx.x * norm_threads + threadIdx.x; i < packets; i += stride) {
    std::uint32_t const at = packets - 1 - i;
    packet<T, 4> const v = load_packet<4>(x + std::size_t{at} * 4);
    double four = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) four += double(v.v[k]) * double(v.v[k]);
    sum += lines[at / line] == update_line::still ? 0 : four;
  }
  sum = sum_of_threads(sum, tree);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
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

/// measure = the norm of scale times the gradients, and the factor for the optimiser; a norm that is not finite, as it
/// is with any gradient that is not, is reported.
///
/// Shapes   gradients [n], 16-byte aligned; lines [n / 64], as update_lines makes them: those that are still are left
///          out; n a multiple of 64; measure and check's: on the device.
/// Writes   measure (=).
/// Throws   shape_error if n is no multiple of 64.
/// Limits   `limit` is the norm that longer gradients are scaled down to; 0 leaves them alone. `scale` undoes what the
///          losses were multiplied by beyond the mean over micro-batches.
template <precision P>
void measure_gradients(context<P>& ctx, float const* gradients, std::uint16_t const* lines, std::size_t n, double limit,
                       gradient_measure* measure, finite_check const& check = {}, double scale = 1) {
  std::uint32_t const packets = detail::whole_lines("measure_gradients.n modulo 64", n);
  if (!ctx.reserve(detail::norm_blocks * sizeof(double) + arena::alignment)) return;
  arena_scope const scope{ctx.shared()};
  double* const parts = ctx.shared().template take<double>(detail::norm_blocks);
  detail::launch("measure_gradients", detail::squares_kernel<float>, {detail::norm_blocks, detail::norm_threads},
                 ctx.stream(), gradients, lines, packets, parts);
  detail::launch("measure_gradients", detail::norm_kernel<double>, {1, detail::norm_threads}, ctx.stream(), parts,
                 scale, limit, measure, check);
}

}  // namespace dm2::cuda
