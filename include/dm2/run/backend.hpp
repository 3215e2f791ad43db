/// @file
/// The backends that a model's code can be compiled for.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace dm2::run {

/// Where a model computes, and in which numbers.
enum class backend : unsigned char { cpu, cuda_bf16, cuda_fp16, cuda_fp32, cuda_tf32 };

/// Their names, by number.
inline constexpr std::array<std::string_view, 5> backend_names{"cpu", "cuda-bf16", "cuda-fp16", "cuda-fp32",
                                                               "cuda-tf32"};

/// "cpu", "cuda-bf16", ...
[[nodiscard]] constexpr std::string_view name_of(backend b) { return backend_names[std::size_t(b)]; }

/// The backend called so; nothing where none is.
[[nodiscard]] constexpr std::optional<backend> find_backend(std::string_view name) {
  for (std::size_t i = 0; i < backend_names.size(); ++i)
    if (backend_names[i] == name) return backend(i);
  return std::nullopt;
}

/// Whether training computes on it: the GPU's half and TF32 are for inference.
[[nodiscard]] constexpr bool trains(backend b) {
  return b == backend::cpu || b == backend::cuda_bf16 || b == backend::cuda_fp32;
}

}  // namespace dm2::run
