/// @file
/// Memory that is brought to the L2 cache ahead of its use.
#pragma once

namespace dm2::cuda::detail {

/// Starts bringing `bytes` of global memory to the L2 cache, both multiples of 16; one thread does for all of them. A
/// hint: nothing below compute capability 9.0.
__device__ inline void prefetch_to_l2([[maybe_unused]] void const* from, [[maybe_unused]] int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
#endif
}

}  // namespace dm2::cuda::detail
