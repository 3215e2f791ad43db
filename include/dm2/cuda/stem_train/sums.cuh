/// @file
/// Sums over rows, in parts: the general forms of the stem's statistics and of its BatchNorm's gradient.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Parts of a sum; which rows belong to one depends on their number alone.
inline constexpr int stem_sum_count = 512;

/// x and x^2 of number i, and 0 for the second where there is only one sum.
template <class T>
struct stem_moments {
  T const* x;

  __device__ void operator()(std::ptrdiff_t i, int, double (&sum)[2]) const {
    double const v = double(to_float(x[i]));
    sum[0] += v;
    sum[1] += v * v;
  }
};

/// dz and dz x of number i, channel c.
template <class R, class T>
struct stem_norm_terms {
  R const* x;
  T const* da;
  stem_train_norm norm;

  __device__ void operator()(std::ptrdiff_t i, int c, double (&sum)[2]) const {
    float const in = to_float(x[i]);
    float2 const affine = norm.affine(c);
    double const dz = fmaf(in, affine.x, affine.y) > 0 ? double(to_float(da[i])) : 0;
    sum[0] += dz;
    sum[1] += dz * double(in);
  }
};

/// parts [gridDim.x, 2, width] = the terms' sums over rows of `width` numbers. Block (part, 32 columns), a warp every
/// eighth row.
template <class Terms>
__global__ void __launch_bounds__(256)
    stem_sums_kernel(Terms terms, std::ptrdiff_t rows, int width, double* __restrict__ parts) {
  __shared__ double eighths[2][8][32];
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, c = int(blockIdx.y) * 32 + lane;
  std::ptrdiff_t const first = rows * blockIdx.x / gridDim.x, last = rows * (blockIdx.x + 1) / gridDim.x;
  double sum[2] = {};
  if (c < width) {
#pragma unroll 4
    for (std::ptrdiff_t r = first + warp; r < last; r += 8) terms(r * width + c, c, sum);
  }
  for (int k = 0; k < 2; ++k) eighths[k][warp][lane] = sum[k];
  __syncthreads();
  if (warp >= 2 || c >= width) return;
  double total = 0;
  for (int w = 0; w < 8; ++w) total += eighths[warp][w][lane];
  parts[(std::ptrdiff_t(blockIdx.x) * 2 + warp) * width + c] = total;
}

template <class Terms>
void sum_terms(cudaStream_t stream, Terms const& terms, std::ptrdiff_t rows, int width, double* parts) {
  launch("stem: sums over pixels", stem_sums_kernel<Terms>, {dim3(stem_sum_count, unsigned((width + 31) / 32)), 256},
         stream, terms, rows, width, parts);
}

/// da = the gradient with respect to the convolution's output, in place. A thread a number.
template <class R, class T>
__global__ void __launch_bounds__(256)
    stem_norm_backward_kernel(R const* __restrict__ x, T* __restrict__ da, stem_norm_gradient gradient, int width,
                              std::ptrdiff_t size) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= size) return;
  int const c = int(i % width);
  float const in = to_float(x[i]);
  float2 const affine = gradient.norm.affine(c);
  stem_norm_slope const s = gradient.slope(c, width);
  float const dz = fmaf(in, affine.x, affine.y) > 0 ? to_float(da[i]) : 0.f;
  da[i] = from_float<T>(fmaf(dz, s.a, fmaf(in, s.b, s.c)));
}

template <class R, class T>
void norm_backward(cudaStream_t stream, R const* x, T* da, stem_norm_gradient const& gradient, int width,
                   std::ptrdiff_t pixels) {
  std::ptrdiff_t const size = pixels * width;
  launch("stem: backward of BatchNorm", stem_norm_backward_kernel<R, T>, {unsigned((size + 255) / 256), 256}, stream, x,
         da, gradient, width, size);
}

}  // namespace dm2::cuda::detail
