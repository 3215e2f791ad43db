/// @file
/// Training on a GPU in one precision.
#pragma once

#include <dm2/cuda/step_engine.cuh>

#include "../support/gpu_trainer.hpp"
#include "../support/models.hpp"
#include "../support/training_run.hpp"

namespace dm2::example {

/// As train_on_gpu, in precision P.
template <cuda::precision P>
int train_on_gpu_in(run_request const& request) {
  int code = exit_usage;
  for_each_model([&]<config C>(char const* name) {
    if (request.flags.model == name) code = training_run<C, cuda::context<P>>{request}.run();
  });
  return code;
}

extern template int train_on_gpu_in<cuda::precision::bf16>(run_request const&);
extern template int train_on_gpu_in<cuda::precision::fp32>(run_request const&);

}  // namespace dm2::example
