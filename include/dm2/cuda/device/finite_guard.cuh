/// @file
/// Numbers that are not finite, noticed on the device.
///
/// Training looks at the host's leisure and not at every step.
#pragma once

#include <dm2/cuda/check.cuh>

#include <cmath>
#include <cstdint>

namespace dm2::cuda {

/// What was not finite.
enum class bad_number : int { none, loss, gradient };

/// The first number of a run that was not finite, in device memory. All zero: every one was finite so far. The
/// optimizer's step does nothing any more once there is one, so that the weights stay as they were before it.
struct finite_guard {
  std::int64_t step;  ///< the optimizer step that it was met in, counted from 1; 0 for none
  bad_number what;    ///< what it was
  int micro_batch;    ///< the step's micro-batch, from 0
};

/// Where an operation reports what is not finite, and which step it then names.
struct finite_check {
  finite_guard* guard = nullptr;       ///< on the device; null for no report
  std::int64_t const* step = nullptr;  ///< on the device: the step under way, counted from 1; null for 1
  int micro_batch = 0;                 ///< that the operation is part of
};

namespace detail {

/// Keeps the first report. One thread of one kernel calls it at a time, since a stream's kernels follow each other.
__device__ inline void report_unless_finite(finite_check const& check, double value, bad_number what) {
  if (check.guard == nullptr || isfinite(value) || check.guard->step != 0) return;
  check.guard->what = what;
  check.guard->micro_batch = check.micro_batch;
  check.guard->step = check.step == nullptr ? 1 : *check.step;
}

}  // namespace detail

}  // namespace dm2::cuda
