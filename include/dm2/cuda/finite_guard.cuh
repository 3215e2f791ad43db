/// @file
/// Numbers that are not finite, noticed on the device: training looks at the host's leisure and not at every step.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/launch.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2::cuda {

/// What was not finite.
enum class bad_number : int { none, loss, gradient };

/// The first number of a run that was not finite, in device memory. All zero: every one was finite so far. The
/// optimiser's step does nothing any more once there is one, so that the weights stay as they were before it.
struct finite_guard {
  std::int64_t step;  ///< the optimiser step that it was met in, counted from 1; 0 for none
  bad_number what;    ///< what it was
  int micro_batch;    ///< the step's micro-batch, from 0
};

/// Where an operation reports what is not finite, and which step it then names.
struct finite_check {
  finite_guard* guard = nullptr;       ///< on the device; null for no report
  std::int64_t const* step = nullptr;  ///< on the device: the step under way, counted from 1; null for 1
  int micro_batch = 0;                 ///< that the operation is part of
};

/// Numbers [offset, offset + size) of a flat buffer.
struct number_range {
  std::size_t offset;  ///< the first
  std::size_t size;    ///< how many; may be 0
};

namespace detail {

/// Keeps the first report. One thread of one kernel calls it at a time, since a stream's kernels follow each other.
__device__ inline void report_unless_finite(finite_check const& check, double value, bad_number what) {
  if (check.guard == nullptr || isfinite(value) || check.guard->step != 0) return;
  check.guard->what = what;
  check.guard->micro_batch = check.micro_batch;
  check.guard->step = check.step == nullptr ? 1 : *check.step;
}

/// A block a range: bad[r] = whether it holds a number that is not finite.
template <class T>
__global__ void __launch_bounds__(256)
    bad_ranges_kernel(T const* __restrict__ values, number_range const* __restrict__ ranges, int* bad) {
  __shared__ int found[8];
  number_range const r = ranges[blockIdx.x];
  bool mine = false;
  for (std::size_t i = threadIdx.x; i < r.size; i += 256) mine = mine || !isfinite(values[r.offset + i]);
  mine = __any_sync(0xffffffffu, mine) != 0;
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = mine ? 1 : 0;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int any = 0;
  for (int w = 0; w < 8; ++w) any |= found[w];
  bad[blockIdx.x] = any;
}

/// One warp: the first range whose flag is set, or -1.
template <class T>
__global__ void __launch_bounds__(32) first_bad_kernel(T const* bad, int count, int* first) {
  int at = count;
  for (int r = int(threadIdx.x); r < count && at == count; r += 32)
    if (bad[r] != 0) at = r;
  for (int distance = 16; distance > 0; distance /= 2) {
    int const other = __shfl_xor_sync(0xffffffffu, at, distance);
    at = other < at ? other : at;
  }
  if (threadIdx.x == 0) *first = at == count ? -1 : at;
}

}  // namespace detail

/// *first = the first of the ranges that holds a number which is not finite, or -1: which tensor of the parameter table
/// it is, or which picture of a batch. For the message of a run that has ended; reads every number.
///
/// Shapes   values: a flat buffer that holds the ranges; ranges [count]; all of them and first on the device.
/// Writes   *first (=), asynchronously.
template <precision P>
void first_not_finite(context<P>& ctx, float const* values, number_range const* ranges, int count, int* first) {
  if (count < 1) {
    if (ctx.reserve(0)) check(cudaMemsetAsync(first, 0xff, sizeof(int), ctx.stream()), "first_not_finite");
    return;
  }
  if (!ctx.reserve(std::size_t(count) * sizeof(int) + arena::alignment)) return;
  arena_scope const scope{ctx.shared()};
  int* const bad = ctx.shared().template take<int>(std::size_t(count));
  detail::launch("first_not_finite", detail::bad_ranges_kernel<float>, {unsigned(count), 256}, ctx.stream(), values,
                 ranges, bad);
  detail::launch("first_not_finite", detail::first_bad_kernel<int>, {1, 32}, ctx.stream(), bad, count, first);
}

/// The ranges of a table's entries, one an entry in the table's order; those of other kinds than `kinds` are empty.
template <class... Kinds>
[[nodiscard]] std::vector<number_range> table_ranges(std::span<parameter_entry const> table, Kinds... kinds) {
  std::vector<number_range> ranges;
  for (parameter_entry const& e : table) {
    bool const wanted = ((e.kind == kinds) || ...);
    ranges.push_back(wanted ? number_range{e.offset, e.size} : number_range{0, 0});
  }
  return ranges;
}

}  // namespace dm2::cuda
