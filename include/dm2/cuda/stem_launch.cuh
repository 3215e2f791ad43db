/// @file
/// Launches of the stem's kernels.
#pragma once

#include <dm2/cuda/check.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// What a kernel runs with.
struct stem_launch {
  char const* name;
  int threads;
  int shared;  ///< bytes of dynamic shared memory
  cudaStream_t stream;

  /// Allows the kernel its shared memory.
  template <class... P>
  void allow(void (*kernel)(P...)) const {
    if (shared > 48 * 1024)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), name);
  }

  /// Runs `grid` blocks.
  template <class... P, class... A>
  void operator()(void (*kernel)(P...), dim3 grid, A... arguments) const {
    allow(kernel);
    kernel<<<grid, unsigned(threads), std::size_t(shared), stream>>>(arguments...);
    check_launch(name);
  }

  /// As many blocks as the device holds at a time, at most `most`.
  template <class... P>
  [[nodiscard]] dim3 resident(void (*kernel)(P...), int multiprocessors, int most) const {
    allow(kernel);
    int each = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, std::size_t(shared)), name);
    return dim3(unsigned(std::min(most, std::max(1, each) * multiprocessors)));
  }
};

}  // namespace dm2::cuda::detail
