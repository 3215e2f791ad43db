/// @file
/// CUDA and library statuses as exceptions.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <source_location>
#include <stdexcept>
#include <string>

namespace dm2::cuda {

/// A CUDA call, a library call or a kernel launch that failed. The message holds the call site, what was done, and the
/// status by name.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {
[[noreturn]] inline void fail(char const* what, std::string const& status, std::source_location at) {
  throw error{std::string{at.file_name()} + ":" + std::to_string(at.line()) + ": " + what + ": " + status};
}
}  // namespace detail

/// Throws unless status is success.
inline void check(cudaError_t status, char const* what, std::source_location at = std::source_location::current()) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // clears an error that is not sticky, so that the next call starts clean
  detail::fail(what, std::string{cudaGetErrorName(status)} + " (" + cudaGetErrorString(status) + ")", at);
}

/// Throws unless cuBLASLt's status is success.
inline void check(cublasStatus_t status, char const* what, std::source_location at = std::source_location::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  detail::fail(what, std::string{cublasLtGetStatusName(status)} + " (" + cublasLtGetStatusString(status) + ")", at);
}

}  // namespace dm2::cuda
