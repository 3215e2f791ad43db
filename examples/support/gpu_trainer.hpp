/// @file
/// Training on a GPU, for the example programs. The definitions are in examples/cuda, which only nvcc compiles.
#pragma once

#include "gpu_classifier.hpp"
#include "run_request.hpp"

#include <stdexcept>

namespace dm2::example {

#ifdef DM2_EXAMPLES_CUDA

/// As training_run::run, of the model that the flags name, on the current GPU.
int train_on_gpu(run_request const& request);

#else

inline int train_on_gpu(run_request const&) { throw std::runtime_error{gpu_problem()}; }

#endif

}  // namespace dm2::example
