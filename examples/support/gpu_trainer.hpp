/// @file
/// Connects the processes of a run on GPUs. The definition is in examples/cuda, which only nvcc compiles.
#pragma once

#include <dm2/comm/communicator.hpp>

#include "gpu.hpp"
#include "process_place.hpp"

#include <memory>
#include <stdexcept>

namespace dm2::example {

#ifdef DM2_EXAMPLES_CUDA

/// Takes this process's GPU, and connects it to the others by NCCL. `host`, where it is not null, connects them
/// already. Null where the messages have to go by `host`. Throws process_error, cuda::error.
[[nodiscard]] std::unique_ptr<communicator> connect_gpus(process_place const& place, communicator* host,
                                                         double deadline);

#else

[[nodiscard]] inline std::unique_ptr<communicator> connect_gpus(process_place const&, communicator*, double) {
  throw std::runtime_error{gpu_problem()};
}

#endif

}  // namespace dm2::example
