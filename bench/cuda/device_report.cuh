/// @file
/// What a table of times says of the device it was measured on.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/gemm.cuh>

#include "cuda/timing.cuh"

#include <cstddef>
#include <cstdio>

namespace dm2::bench {

/// Rates that the device reaches when nothing else is asked of it.
struct ceilings {
  double copy;     ///< bytes a second of a device-to-device copy, read and written
  double product;  ///< operations a second of a product of 8192 x 8192 x 8192 in bfloat16
};

inline ceilings measure_ceilings() {
  cuda::stream const s;
  cuda::context<> ctx{s.get()};
  std::size_t const bytes = std::size_t{1} << 30;
  cuda::device_memory const from{bytes}, to{bytes};
  double const copy = median_us(s, [&] {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, s.get()), "copy");
  });
  constexpr int n = 8192;
  random_array<__nv_bfloat16> const a{n * n}, b{n * n}, c{n * n};
  double const product = median_us(s, [&] {
    cuda::gemm<cuda::op::plain, cuda::op::transposed>(ctx, {a.data(), n, n},
                                                      cuda::matrix<__nv_bfloat16 const>{b.data(), n, n},
                                                      cuda::matrix<__nv_bfloat16>{c.data(), n, n});
  });
  return {2.0 * double(bytes) / copy * 1e6, 2.0 * n * n * n / product * 1e6};
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
