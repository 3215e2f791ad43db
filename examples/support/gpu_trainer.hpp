/// @file
/// Training on a GPU, for the example programs. The definitions are in examples/cuda, which only nvcc compiles.
#pragma once

#include <nlohmann/json.hpp>

#include "gpu_classifier.hpp"
#include "training_flags.hpp"

#include <stdexcept>

namespace dm2::example {

#ifdef DM2_EXAMPLES_CUDA

/// As training_run::run, of the model that the flags name, on the current GPU.
int train_on_gpu(training_flags const& flags, nlohmann::ordered_json const& arguments);

#else

inline int train_on_gpu(training_flags const&, nlohmann::ordered_json const&) {
  throw std::runtime_error{gpu_problem()};
}

#endif

}  // namespace dm2::example
