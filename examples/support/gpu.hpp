/// @file
/// What the programs ask of a GPU. The definitions are in examples/cuda, which only nvcc compiles.
#pragma once

#include <array>
#include <stdexcept>
#include <string>

namespace dm2::example {

/// The names of cuda::precision, the default first.
inline constexpr std::array<char const*, 4> precision_names{"bf16", "fp16", "fp32", "tf32"};

#ifdef DM2_EXAMPLES_CUDA

/// Why no GPU can be used; empty where one can.
[[nodiscard]] std::string gpu_problem();

/// Whether what is compiled into this program runs on the current GPU. Throws cuda::error where it cannot be asked.
[[nodiscard]] bool gpu_has_code();

/// The current GPU's architecture as nvcc names it: "80", "90a". Throws cuda::error.
[[nodiscard]] std::string gpu_architecture();

#else

[[nodiscard]] inline std::string gpu_problem() {
  return "this program was built without CUDA: configure with -DDM2_CUDA=ON";
}

[[nodiscard]] inline bool gpu_has_code() { return false; }

[[nodiscard]] inline std::string gpu_architecture() { throw std::runtime_error{gpu_problem()}; }

#endif

}  // namespace dm2::example
