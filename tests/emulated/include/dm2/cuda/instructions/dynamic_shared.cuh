/// @file
/// The shared memory of the running block.
#pragma once

#include <cuda_runtime.h>

namespace dm2::cuda::detail {

inline unsigned char* dynamic_shared() { return emulated::machine::current().shared(); }

}  // namespace dm2::cuda::detail
