/// @file
/// dm2/cuda/instructions/early_start.cuh on the host: kernels run one after another, and each thread of one that was
/// launched early has to wait, as the launch checks.
#pragma once

namespace dm2::cuda::detail {

inline void wait_for_previous() { ++emulated::waits_of_block(); }
inline void let_next_start() {}

}  // namespace dm2::cuda::detail
