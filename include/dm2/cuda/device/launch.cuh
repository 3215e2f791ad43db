/// @file
/// Launching a kernel.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/early_start.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// Blocks, threads of a block, and bytes of shared memory that each block gets beside what its kernel declares.
struct launch_shape {
  dim3 grid;
  int threads;
  std::size_t shared = 0;
  bool early = false;  ///< may start before the kernel ahead has ended: see instructions/early_start.cuh
};

/// A block has this much shared memory without asking the driver for more: 48 KB less what a kernel may declare itself.
inline constexpr std::size_t shared_without_asking = std::size_t{47} << 10;

/// Allows `kernel` blocks of this shape; throws error, with the kernel's name, where no block can have them.
template <class... Parameters>
void allow_shape(char const* name, void (*kernel)(Parameters...), launch_shape const& shape) {
  if (shape.shared > shared_without_asking)
    check(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shape.shared)),
          name);
}

/// Prefers shared memory to L1 for `kernel`, so that a multiprocessor holds as many blocks as their memory lets it.
template <class... Parameters>
void prefer_shared(char const* name, void (*kernel)(Parameters...)) {
  check(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        name);
}

/// As many blocks as the device holds at a time, at most `most`; shape.grid is not read.
template <class... Parameters>
unsigned resident_blocks(char const* name, void (*kernel)(Parameters...), launch_shape const& shape,
                         int multiprocessors, int most) {
  allow_shape(name, kernel, shape);
  int each = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, reinterpret_cast<void const*>(kernel), shape.threads,
                                                      shape.shared),
        name);
  return unsigned(std::min(most, std::max(1, each) * multiprocessors));
}

/// kernel(arguments...) in `stream`. Throws error, with the kernel's name, where the launch is refused.
template <class... Parameters, class... Arguments>
void launch(char const* name, void (*kernel)(Parameters...), launch_shape const& shape, cudaStream_t stream,
            Arguments const&... arguments) {
  allow_shape(name, kernel, shape);
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(unsigned(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  cudaLaunchAttribute early{};
  if (shape.early) {
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

}  // namespace dm2::cuda::detail
