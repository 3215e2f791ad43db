/// @file
/// Launching a kernel, and the shared memory that a launch gives to each block.
#pragma once

#include <dm2/cuda/check.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Blocks, threads of a block, and bytes of shared memory that each block gets beside what its kernel declares.
struct launch_shape {
  dim3 grid;
  int threads;
  std::size_t shared = 0;
};

/// A block has this much shared memory without asking the driver for more.
inline constexpr std::size_t shared_without_asking = std::size_t{48} << 10;

/// kernel(arguments...) in `stream`. Throws error, with the kernel's name, where the launch is refused.
template <class... Parameters, class... Arguments>
void launch(char const* name, void (*kernel)(Parameters...), launch_shape const& shape, cudaStream_t stream,
            Arguments const&... arguments) {
  if (shape.shared > shared_without_asking)
    check(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shape.shared)),
          name);
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(unsigned(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

/// The first byte of launch_shape::shared.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char dm2_shared[];
  return dm2_shared;
}

}  // namespace dm2::cuda::detail
