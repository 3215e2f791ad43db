/// @file
/// BatchNorm (Ioffe & Szegedy 2015, arXiv 1502.03167) with ReLU, on channels-last pictures.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/gradient_parts.hpp>

#include <cmath>
#include <cstddef>

namespace dm2::cpu::detail {

inline constexpr double batch_norm_eps = 1e-5, batch_norm_momentum = 0.1;

/// BatchNorm and ReLU with known statistics: y = relu(x scale + shift).
template <class T>
struct channel_affine {
  T *scale, *shift;

  channel_affine(arena& a, int channels)
      : scale{a.take<T>(std::size_t(channels))}, shift{a.take<T>(std::size_t(channels))} {}

  /// scale = weight / sqrt(var + eps), shift = bias - mean scale.
  void fill(int channels, T const* weight, T const* bias, T const* mean, T const* rstd) const {
    for (int c = 0; c < channels; ++c) {
      scale[c] = weight[c] * rstd[c];
      shift[c] = bias[c] - mean[c] * scale[c];
    }
  }
};

/// out = relu(x scale + shift) for `pixels` consecutive pixels. out may be x.
template <class T>
void affine_relu(T const* x, std::ptrdiff_t pixels, int channels, channel_affine<T> const& a, T* out) {
  for (std::ptrdiff_t i = 0; i < pixels; ++i)
    array(out + i * channels, channels) =
        (array(x + i * channels, channels) * array(a.scale, channels) + array(a.shift, channels)).max(T(0));
}

/// Sums over `pixels` of f(pixel, sum): sum is a double array of `channels` numbers to add to. The sums are made in
/// gradient_parts parts, added in their order, so that they do not depend on the number of threads.
template <class T, class F>
void sum_pixels(context<T>& ctx, std::ptrdiff_t pixels, int channels, double* parts, double* sum, F const& f) {
  ctx.for_each(gradient_parts, [&](int k, arena&) {
    double* const part = parts + k * channels;
    array(part, channels).setZero();
    for (std::ptrdiff_t i = pixels * k / gradient_parts; i < pixels * (k + 1) / gradient_parts; ++i) f(i, part);
  });
  array(sum, channels).setZero();
  add_parts(parts, gradient_parts, channels, sum);
}

/// mean and rstd = 1 / sqrt(variance + eps) of x [pixels, channels]; running <- running + 0.1 (batch - running).
///
/// The running variance is divided by pixels - 1, as PyTorch keeps it. Two passes, in double.
///
/// Scratch  parts: (gradient_parts + 2) * channels doubles.
template <class T>
void batch_statistics(context<T>& ctx, T const* x, std::ptrdiff_t pixels, int channels, double* parts, T* mean, T* rstd,
                      T* running_mean, T* running_var) {
  double* const m = parts + gradient_parts * channels;
  double* const v = m + channels;
  sum_pixels(ctx, pixels, channels, parts, m, [&](std::ptrdiff_t i, double* sum) {
    array(sum, channels) += array(x + i * channels, channels).template cast<double>();
  });
  array(m, channels) /= double(pixels);
  sum_pixels(ctx, pixels, channels, parts, v, [&](std::ptrdiff_t i, double* sum) {
    array(sum, channels) += (array(x + i * channels, channels).template cast<double>() - array(m, channels)).square();
  });
  for (int c = 0; c < channels; ++c) {
    mean[c] = T(m[c]);
    rstd[c] = T(1 / std::sqrt(v[c] / double(pixels) + batch_norm_eps));
    double const unbiased = v[c] / double(pixels > 1 ? pixels - 1 : 1);
    running_mean[c] += T(batch_norm_momentum * (m[c] - double(running_mean[c])));
    running_var[c] += T(batch_norm_momentum * (unbiased - double(running_var[c])));
  }
}

/// A BatchNorm that a backward goes through: its input and the batch's statistics.
template <class T>
struct batch_norm_point {
  T const* x;                ///< [pixels, channels]
  int channels;              ///< of x
  channel_affine<T> affine;  ///< its output is relu(x scale + shift)
  T const* mean;             ///< [channels], of the batch
  T const* rstd;             ///< [channels], 1 / sqrt(variance + eps)

  /// The same with the pixels from `first` on.
  [[nodiscard]] batch_norm_point from(std::ptrdiff_t first) const {
    return {x + first * channels, channels, affine, mean, rstd};
  }
};

/// With x^ = (x - mean) rstd and dz = da where the output is positive:
///     dbias += sum dz,  dweight += sum dz x^,  dx = weight rstd (dz - mean(dz) - x^ mean(dz x^))
/// This is its first half: dbias and dweight, and the two means.
///
/// Scratch  parts: (gradient_parts + 1) * 2 * channels doubles; the means are left in means [2, channels].
template <class T>
void batch_norm_sums(context<T>& ctx, batch_norm_point<T> const& p, T const* da, std::ptrdiff_t pixels, double* parts,
                     double* means, T* dweight, T* dbias) {
  int const channels = p.channels;
  // The factor is a product: half of the branches that a choice compiles to are mispredicted, which takes seven times
  // as long.
  sum_pixels(ctx, pixels, 2 * channels, parts, means, [=](std::ptrdiff_t i, double* sum) {
    T const *const in = p.x + i * channels, *const grad = da + i * channels, *const scale = p.affine.scale,
                   *const shift = p.affine.shift, *const mean = p.mean, *const rstd = p.rstd;
    for (int c = 0; c < channels; ++c) {
      double const dz = double(T(in[c] * scale[c] + shift[c] > 0) * grad[c]);
      sum[c] += dz;
      sum[channels + c] += dz * double((in[c] - mean[c]) * rstd[c]);
    }
  });
  for (int c = 0; c < channels; ++c) {
    dbias[c] += T(means[c]);
    dweight[c] += T(means[channels + c]);
  }
  array(means, 2 * channels) /= double(pixels);
}

/// The second half: dx for `pixels` consecutive pixels. dx may be da.
template <class T>
void batch_norm_input_gradient(batch_norm_point<T> p, T const* da, std::ptrdiff_t pixels, double const* means, T* dx) {
  int const channels = p.channels;
  channel_affine<T> const a = p.affine;
  for (std::ptrdiff_t i = 0; i < pixels; ++i)
    for (int c = 0; c < channels; ++c) {
      T const in = p.x[i * channels + c], dz = in * a.scale[c] + a.shift[c] > 0 ? da[i * channels + c] : T(0);
      dx[i * channels + c] = a.scale[c] * (dz - T(means[c]) - (in - p.mean[c]) * p.rstd[c] * T(means[channels + c]));
    }
}

}  // namespace dm2::cpu::detail
