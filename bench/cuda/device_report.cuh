/// @file
/// Describes the device that a table of times was measured on.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/gemm.cuh>

#include "cuda/timing.cuh"

#include <algorithm>
#include <cstddef>
#include <cstdio>

namespace dm2::bench {

/// Rates that the device reaches when nothing else is asked of it.
struct ceilings {
  double copy;     ///< bytes a second of a device-to-device copy, read and written
  double product;  ///< operations a second of a product of 8192 x 8192 x 8192 in bfloat16
};

/// to = from, of `count` pieces of 16 bytes; a thread has four of them on their way.
__global__ void __launch_bounds__(256)
    copy_kernel(uint4 const* __restrict__ from, uint4* __restrict__ to, std::size_t count) {
  std::size_t const first = std::size_t{blockIdx.x} * 1024 + threadIdx.x;
  uint4 v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (std::size_t const at = first + unsigned(256 * i); at < count) v[i] = from[at];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (std::size_t const at = first + unsigned(256 * i); at < count) to[at] = v[i];
}

/// Bytes a second, read and written, of 2 GB by the driver's copy or by a kernel, whichever is faster. Enqueued in a
/// stream: a node of a graph that copies memory reaches two thirds of it.
inline double measure_copy(cuda::stream const& s) {
  std::size_t const bytes = std::size_t{2} << 30, pieces = bytes / sizeof(uint4);
  random_array<float> const from{bytes / sizeof(float)};
  cuda::device_memory const to{bytes};
  double const driver = median_replay_us(s, [&] {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, s.get()), "copy");
  });
  double const kernel = median_replay_us(s, [&] {
    cuda::detail::launch("copy", copy_kernel, {dim3(unsigned(pieces / 1024)), 256}, s.get(),
                         reinterpret_cast<uint4 const*>(from.data()), reinterpret_cast<uint4*>(to.data()), pieces);
  });
  return 2.0 * double(bytes) / std::min(driver, kernel) * 1e6;
}

inline ceilings measure_ceilings() {
  cuda::stream const s;
  cuda::context<> ctx{s.get()};
  double const copy = measure_copy(s);
  constexpr int n = 8192;
  random_array<__nv_bfloat16> const a{n * n}, b{n * n}, c{n * n};
  double const product = median_us(s, [&] {
    cuda::gemm<cuda::op::plain, cuda::op::transposed>(ctx, {a.data(), n, n},
                                                      cuda::matrix<__nv_bfloat16 const>{b.data(), n, n},
                                                      cuda::matrix<__nv_bfloat16>{c.data(), n, n});
  });
  return {copy, 2.0 * n * n * n / product * 1e6};
}

/// Prints device, driver, toolkit and ceilings as a Markdown list.
inline ceilings print_device() {
  cudaDeviceProp properties{};
  int driver = 0, clock = 0;
  cuda::check(cudaGetDeviceProperties(&properties, cuda::current_device()), "device");
  cuda::check(cudaDriverGetVersion(&driver), "driver");
  cuda::check(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, cuda::current_device()), "clock");
  ceilings const c = measure_ceilings();
  std::printf("* device: %s, %d multiprocessors, at most %.0f MHz\n", properties.name, properties.multiProcessorCount,
              clock / 1e3);
  std::printf("* CUDA driver interface %d.%d, compiled with toolkit %d.%d\n", driver / 1000, driver % 1000 / 10,
              CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  std::printf("* copy %.2f TB/s (read + written), bfloat16 product 8192^3 %.0f TFLOP/s\n\n", c.copy / 1e12,
              c.product / 1e12);
  return c;
}

}  // namespace dm2::bench
