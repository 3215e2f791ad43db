/// @file
/// The training state behind the run-time interface, on a GPU.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/step_engine.cuh>
#include <dm2/run/model_code.hpp>
#include <dm2/run/training_of.hpp>

#include <cstddef>
#include <memory>

namespace dm2::run {

/// A training state of configuration C in precision P on the current GPU.
template <config C, cuda::precision P>
[[nodiscard]] std::unique_ptr<training_state> make_gpu_training(training_request const& request) {
  return std::make_unique<training_of<C, cuda::context<P>>>(request, cuda::context<P>{});
}

/// Bytes that a training pass in precision P plans.
template <config C, cuda::precision P>
[[nodiscard]] std::size_t gpu_training_bytes(int batch) {
  return planned_bytes<dm2::detail::training_plan<C, cuda::context<P>>>(batch);
}

}  // namespace dm2::run
