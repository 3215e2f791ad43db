/// @file
/// The stem's BatchNorm in training, and the ends of its two sums.
///
/// A kernel leaves sums of parts of the pixels, in double or float; here they are added in double, in their order.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>

namespace dm2::cuda::detail::stem_train {

inline constexpr double norm_eps = 1e-5, norm_momentum = 0.1;

/// BatchNorm after one convolution with the batch's statistics, [hidden] each.
struct batch_norm {
  float const *weight, *bias, *mean, *rstd;

  /// Scale and shift: BatchNorm is x scale + shift.
  __device__ float2 affine(int c) const {
    float const scale = weight[c] * rstd[c];
    return make_float2(scale, fmaf(-mean[c], scale, bias[c]));
  }
};

/// relu(x scale + shift); NaN stays.
__device__ inline float activated(float x, float2 affine) {
  float const z = fmaf(x, affine.x, affine.y);
  return z < 0 ? 0.f : z;
}

/// The gradient with respect to the convolution's output is dz a + x b + c with these numbers: with
/// x^ = (x - mean) rstd, it is scale (dz - mean(dz) - x^ mean(dz x^)).
struct norm_slope {
  float a, b, c;
};

/// `norm` with the means of dz and dz x^, [2, hidden].
struct norm_gradient {
  batch_norm norm;
  float const* means;

  __device__ norm_slope slope(int c, int hidden) const {
    float const scale = norm.weight[c] * norm.rstd[c];
    float const b = -scale * norm.rstd[c] * means[hidden + c];
    return {scale, b, fmaf(-norm.mean[c], b, -scale * means[c])};
  }
};

/// Threads of the kernels that end a sum.
inline constexpr int sum_threads = 1024;

/// sum[k] = the sums of `count` parts [count, 2, width] of number (k, c), in their order: a warp a share of the parts.
/// To be called by all of sum_threads; warp 0's lanes receive the sums of channel c.
template <class U>
__device__ inline void sum_parts(U const* parts, int count, int width, int c, double (&sum)[2]) {
  constexpr int warps = sum_threads / 32;
  __shared__ double shares[2][warps][32];
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  sum[0] = sum[1] = 0;
  if (c < width)
#pragma unroll 4
    for (int i = count * warp / warps; i < count * (warp + 1) / warps; ++i)
      for (int k = 0; k < 2; ++k) sum[k] += double(parts[(std::ptrdiff_t{i} * 2 + k) * width + c]);
  for (int k = 0; k < 2; ++k) shares[k][warp][lane] = sum[k];
  __syncthreads();
  if (warp != 0) return;
  sum[0] = sum[1] = 0;
  for (int w = 0; w < warps; ++w)
    for (int k = 0; k < 2; ++k) sum[k] += shares[k][w][lane];
}

/// Where the statistics of one convolution's output go, [hidden] each.
struct statistics_out {
  float *mean, *rstd, *running_mean, *running_var;
  bool fixed = false;  ///< the running statistics are the ones to use, and do not move
};

/// From parts [count, 2, width] of sum x and sum x^2: mean, 1 / sqrt(variance + eps), and the running statistics, which
/// move a tenth of the way, the variance divided by pixels - 1 for them. Where they are fixed, mean and 1 / sqrt from
/// them.
template <class U>
__global__ void __launch_bounds__(sum_threads)
    statistics_kernel(U const* __restrict__ parts, int count, int width, double pixels, statistics_out out) {
  int const c = int(blockIdx.x) * 32 + int(threadIdx.x) % 32;
  double sum[2];
  sum_parts(parts, count, width, c, sum);
  if (threadIdx.x >= 32 || c >= width) return;
  if (out.fixed) {
    out.mean[c] = out.running_mean[c];
    out.rstd[c] = float(1 / sqrt(double(out.running_var[c]) + norm_eps));
    return;
  }
  double const mean = sum[0] / pixels, square = sum[1] - sum[0] * mean, spread = square > 0 ? square : square * 0;
  out.mean[c] = float(mean);
  out.rstd[c] = float(1 / sqrt(spread / pixels + norm_eps));
  double const unbiased = spread / (pixels > 1 ? pixels - 1 : 1);
  out.running_mean[c] += float(norm_momentum * (mean - double(out.running_mean[c])));
  out.running_var[c] += float(norm_momentum * (unbiased - double(out.running_var[c])));
}

template <class U>
void finish_statistics(cudaStream_t stream, U const* parts, int count, int width, std::ptrdiff_t pixels,
                       statistics_out const& out) {
  launch("stem: statistics", statistics_kernel<U>, {unsigned((width + 31) / 32), sum_threads}, stream, parts, count,
         width, double(pixels), out);
}

/// From parts [count, 2, width] of sum dz and sum dz x: dbias and dweight += sum dz and sum dz x^, means [2, width] =
/// their means.
template <class U>
__global__ void __launch_bounds__(sum_threads)
    norm_gradient_kernel(U const* __restrict__ parts, int count, int width, double pixels, batch_norm norm,
                         float* __restrict__ dweight, float* __restrict__ dbias, float* __restrict__ means) {
  int const c = int(blockIdx.x) * 32 + int(threadIdx.x) % 32;
  double sum[2];
  sum_parts(parts, count, width, c, sum);
  if (threadIdx.x >= 32 || c >= width) return;
  sum[1] = double(norm.rstd[c]) * (sum[1] - double(norm.mean[c]) * sum[0]);
  dbias[c] += float(sum[0]);
  dweight[c] += float(sum[1]);
  means[c] = float(sum[0] / pixels);
  means[width + c] = float(sum[1] / pixels);
}

template <class U>
void finish_norm_gradient(cudaStream_t stream, U const* parts, int count, int width, std::ptrdiff_t pixels,
                          batch_norm const& norm, float* dweight, float* dbias, float* means) {
  launch("stem: gradient of BatchNorm", norm_gradient_kernel<U>, {unsigned((width + 31) / 32), sum_threads}, stream,
         parts, count, width, double(pixels), norm, dweight, dbias, means);
}

/// out[c] += the sums of parts [count, 2, width] of numbers (0, c).
template <class U>
__global__ void __launch_bounds__(sum_threads)
    add_sums_kernel(U const* __restrict__ parts, int count, int width, float* __restrict__ out) {
  int const c = int(blockIdx.x) * 32 + int(threadIdx.x) % 32;
  double sum[2];
  sum_parts(parts, count, width, c, sum);
  if (threadIdx.x < 32 && c < width) out[c] += float(sum[0]);
}

template <class U>
void add_sums(cudaStream_t stream, U const* parts, int count, int width, float* out) {
  launch("stem: gradient of a bias", add_sums_kernel<U>, {unsigned((width + 31) / 32), sum_threads}, stream, parts,
         count, width, out);
}

// Sums over rows, in parts: the general forms of the stem's statistics and of its BatchNorm's gradient.

/// Parts of a sum; which rows belong to one depends on their number alone.
inline constexpr int sum_count = 512;

/// x and x^2 of number i, and 0 for the second where there is only one sum.
template <class T>
struct moments {
  T const* x;

  __device__ void operator()(std::ptrdiff_t i, int, double (&sum)[2]) const {
    double const v = double(to_float(x[i]));
    sum[0] += v;
    sum[1] += v * v;
  }
};

/// dz and dz x of number i, channel c.
template <class R, class T>
struct norm_terms {
  R const* x;
  T const* da;
  batch_norm norm;

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
    sums_kernel(Terms terms, std::ptrdiff_t rows, int width, double* __restrict__ parts) {
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
  launch("stem: sums over pixels", sums_kernel<Terms>, {dim3(sum_count, unsigned((width + 31) / 32)), 256}, stream,
         terms, rows, width, parts);
}

/// da = the gradient with respect to the convolution's output, in place. A thread a number.
template <class R, class T>
__global__ void __launch_bounds__(256) norm_backward_kernel(R const* __restrict__ x, T* __restrict__ da,
                                                            norm_gradient gradient, int width, std::ptrdiff_t size) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= size) return;
  int const c = int(i % width);
  float const in = to_float(x[i]);
  float2 const affine = gradient.norm.affine(c);
  norm_slope const s = gradient.slope(c, width);
  float const dz = fmaf(in, affine.x, affine.y) > 0 ? to_float(da[i]) : 0.f;
  da[i] = from_float<T>(fmaf(dz, s.a, fmaf(in, s.b, s.c)));
}

template <class R, class T>
void norm_backward(cudaStream_t stream, R const* x, T* da, norm_gradient const& gradient, int width,
                   std::ptrdiff_t pixels) {
  std::ptrdiff_t const size = pixels * width;
  launch("stem: backward of BatchNorm", norm_backward_kernel<R, T>, {unsigned((size + 255) / 256), 256}, stream, x, da,
         gradient, width, size);
}

}  // namespace dm2::cuda::detail::stem_train
