/// @file
/// Kernels that start before the one ahead of them has ended.
///
/// "Programmatic dependent launch", compute capability 9.0: launching, and loading what no kernel writes, then costs no
/// time of its own.
///
/// A kernel launched with launch_shape::early starts when every block of the kernel ahead of it, A, has called
/// let_next_start() or has ended; at that time A may itself still wait for the one ahead of A. So the rules are:
///   - Each of its threads calls wait_for_previous(), once, before it reads or writes memory that any kernel ahead
///     reads or writes. The call returns when A has ended and what A wrote can be read. A has waited as well, so that
///     everything ahead of A has ended too. A block that ended without waiting would break this chain.
///   - Before the call it reads nothing but parameters that nothing in the stream writes (context::allow_early_starts),
///     not by __ldg or `__restrict__` what it reads again after the call: the compiler may move such loads across it.
///     But where A was not early, or lets it start and ends only behind its own waits, all ahead of A has ended then:
///     it may read what A does not write, and write what A does not touch (ssd/backward_chunked_kernels.cuh).
///   - A kernel that does not wait is launched without `early`: it starts when all ahead of it has ended, as copies and
///     the library's products do, whether those ahead let it start or not.
///   - let_next_start() may be called at any time, by any kernel. It does not say that results can be read. The next
///     kernel's blocks then take what room the device has left: those of the kernel that calls it have theirs already,
///     since all of them must have called, so that nobody waits for room that a waiting block holds.
/// Both are nothing below 9.0, and wait_for_previous() returns at once in a kernel that was not launched so.
#pragma once

#include <dm2/core/compiler.hpp>

namespace dm2::cuda::detail {

/// Waits until the kernel ahead has ended.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may start once every block has come by here.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace dm2::cuda::detail
