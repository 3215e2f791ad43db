/// @file
/// Clears and copies numbers, on the device or from the host.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail {
template <class T>
__global__ void __launch_bounds__(256) round_kernel(float const* from, T* to, std::size_t n) {
  std::size_t const i = std::size_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) to[i] = from_float<T>(from[i]);
}
}  // namespace detail

/// data[0, n) = 0 on the device. For n = 0, data may be null.
template <precision P, class T>
void clear(context<P>& ctx, T* data, std::size_t n) {
  static_assert(std::is_trivially_copyable_v<T>, "dm2::cuda::clear<T>: T must be plain numbers");
  if (!ctx.reserve(0) || n == 0) return;
  check(cudaMemsetAsync(data, 0, n * sizeof(T), ctx.stream()), "clear");
}

/// to[0, n) = from[0, n), which do not overlap. Either may be on the host; the copy is asynchronous where that side is
/// pinned, and then it must stay until the stream has come by.
template <precision P, class T>
void copy(context<P>& ctx, std::type_identity_t<T> const* from, std::size_t n, T* to) {
  static_assert(std::is_trivially_copyable_v<T>, "dm2::cuda::copy<T>: T must be plain numbers");
  if (!ctx.reserve(0) || n == 0) return;
  check(cudaMemcpyAsync(to, from, n * sizeof(T), cudaMemcpyDefault, ctx.stream()), "copy");
}

/// to[0, n) = from[0, n), rounded to nearest; both on the device.
template <precision P, class T>
void round(context<P>& ctx, float const* from, std::size_t n, T* to) {
  if (!ctx.reserve(0) || n == 0) return;
  detail::launch("round", detail::round_kernel<T>, {unsigned((n + 255) / 256), 256}, ctx.stream(), from, to, n);
}

}  // namespace dm2::cuda
