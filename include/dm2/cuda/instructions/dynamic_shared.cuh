/// @file
/// The shared memory whose size a launch chooses.
#pragma once

namespace dm2::cuda::detail {

/// The first byte of what launch_shape::shared gives to this block, aligned to 128 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char dm2_shared[];
  return dm2_shared;
}

}  // namespace dm2::cuda::detail
