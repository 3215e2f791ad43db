#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/tile/convolve_rows.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

/// What the test below needs of a kernel: rows to shared memory, their convolution, to `out` what is there after it and
/// to `kept` what was given to keep().
template <class T, int Width, int Taps, int V>
__global__ void convolve_all(T const* in, float const* taps, float const* bias, int step, int rows, T* out, T* kept) {
  using convolution = row_convolution<T, Width, Taps, V>;
  unsigned char* const shared = dynamic_shared();
  auto const at = [&](int i) { return reinterpret_cast<T*>(shared + i / Width * convolution::pitch) + i % Width; };
  for (int i = int(threadIdx.x); i < rows * Width; i += int(blockDim.x)) *at(i) = in[i];
  convolution own{int(threadIdx.x), int(blockDim.x), (rows + 15) / 16 * 16, rows};
  own.load(taps, bias, step);
  __syncthreads();
  own.run(
      shared, [] { __syncthreads(); },
      [&](int row, int channel, float const(&v)[V]) {
        for (int i = 0; i < V; ++i) kept[row * Width + channel + i] = from_float<T>(v[i]);
      });
  __syncthreads();
  for (int i = int(threadIdx.x); i < rows * Width; i += int(blockDim.x)) out[i] = *at(i);
}

/// Parameters in reverse begin at the last channel's.
template <class T, int Width, int Taps, int V>
void check_convolution(int rows, int threads, bool reversed) {
  CAPTURE(rows);
  CAPTURE(threads);
  CAPTURE(reversed);
  constexpr int pitch = row_convolution<T, Width, Taps, V>::pitch;
  random_source random{unsigned(rows * 8 + Taps)};
  auto const in = rounded<T>(random.normal(std::size_t(rows) * Width, 1));
  auto const taps = rounded<float>(random.normal(std::size_t(Width) * Taps, 1));
  auto const bias = rounded<float>(random.normal(Width, 1));
  std::vector<double> want(in.size());
  for (int t = 0; t < rows; ++t)
    for (int c = 0; c < Width; ++c) {
      int const own = reversed ? Width - 1 - c : c;
      double sum = bias[std::size_t(own)];
      for (int k = 0; k < Taps; ++k)
        if (int const from = t - (Taps - 1) + k; from >= 0)
          sum += taps[std::size_t(own * Taps + k)] * in[std::size_t(from * Width + c)];
      want[std::size_t(t * Width + c)] = sum / (1 + std::exp(-sum));
    }
  device_array<T> const rows_in{in};
  device_array<float> const device_taps{taps}, device_bias{bias};
  device_array<T> out{in.size()}, kept{in.size()};
  int const first = reversed ? Width - 1 : 0;
  cuda::detail::launch(
      "convolve", convolve_all<T, Width, Taps, V>, {1u, threads, std::size_t(rows) * pitch}, nullptr,
      static_cast<T const*>(rows_in.data()), static_cast<float const*>(device_taps.data()) + first * Taps,
      static_cast<float const*>(device_bias.data()) + first, reversed ? -1 : 1, rows, out.data(), kept.data());
  CHECK(relative_error(out.read(), want) < (std::is_same_v<T, __half> ? 1e-3 : 4e-3));
  CHECK(kept.read() == out.read());
  CHECK(out.margins_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("cuda row_convolution: rows become the SiLU of their convolution, whoever has them", T,
                   __nv_bfloat16, __half) {
  for (int const rows : {1, 2, 3, 4, 5, 16, 17, 67})
    for (int const threads : {32, 96})
      for (bool const reversed : {false, true}) {
        check_convolution<T, 48, 4, 4>(rows, threads, reversed);
        check_convolution<T, 16, 3, 2>(rows, threads, reversed);
        check_convolution<T, 64, 2, 4>(rows, threads, reversed);
        check_convolution<T, 32, 1, 2>(rows, threads, reversed);
      }
}
