/// @file
/// What the example programs ask of a GPU. The definitions are in examples/cuda, which only nvcc compiles.
#pragma once

#include <dm2/io/tensor_file.hpp>

#include "classifier.hpp"

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace dm2::example {

/// The names of cuda::precision, the default first.
inline constexpr std::array<char const*, 4> precision_names{"bf16", "fp16", "fp32", "tf32"};

#ifdef DM2_EXAMPLES_CUDA

/// Why no GPU can be used; empty where one can.
[[nodiscard]] std::string gpu_problem();

/// The model called `name` on the current GPU, with the file's weights. Throws file_error where they do not fit it, and
/// cuda::error.
[[nodiscard]] std::unique_ptr<classifier> make_gpu_classifier(std::string_view name, std::string_view precision,
                                                              tensor_file const& file, int batch, bool patches);

#else

[[nodiscard]] inline std::string gpu_problem() {
  return "this program was built without CUDA: configure with -DDM2_CUDA=ON";
}

[[nodiscard]] inline std::unique_ptr<classifier> make_gpu_classifier(std::string_view, std::string_view,
                                                                     tensor_file const&, int, bool) {
  throw std::runtime_error{gpu_problem()};
}

#endif

}  // namespace dm2::example
