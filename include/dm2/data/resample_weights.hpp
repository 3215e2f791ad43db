/// @file
/// Pillow's antialiased resampling weights for one axis, in fixed point.
#pragma once

#include <dm2/core/host_device.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2 {

/// How a resize weighs source pixels. Support is in pixels of the coarser of the two grids.
enum class resize_filter {
  bilinear,  ///< triangle, support 1
  bicubic    ///< Keys' cubic with a = -1/2, support 2
};

namespace detail {

/// Fraction bits of a weight: 32 less 8 for the sample, a sign, and one for filters that overshoot 1.
inline constexpr int weight_bits = 22;

/// The filter at distance x (any sign), operation by operation as Pillow rounds it.
[[nodiscard]] DM2_HOST_DEVICE inline double filter_value(resize_filter filter, double x) noexcept {
  if (x < 0) x = -x;
  if (filter == resize_filter::bilinear) return x < 1 ? 1 - x : 0;
  if (x < 1) return rounded_product((rounded_product(1.5, x) - 2.5) * x, x) + 1;
  if (x < 2) return (rounded_product(rounded_product(x - 5, x) + 8, x) - 4) * -0.5;
  return 0;
}

/// The source pixels that one output of an axis is made of, and what their weights follow from.
///
/// A source of `in` pixels spans the same length as the outputs do. The filter is stretched to the source's grid when
/// shrinking, and sampled at pixel centres inside the picture.
struct weight_window {
  int begin = 0, end = 0;  ///< source pixels
  double centre = 0, inverse = 0;
  resize_filter filter = resize_filter::bilinear;

  DM2_HOST_DEVICE weight_window(int in, double scale, std::int64_t output, resize_filter f) noexcept : filter{f} {
    double const stretch = greatest(scale, 1.0);
    double const support = (f == resize_filter::bilinear ? 1.0 : 2.0) * stretch;
    inverse = 1.0 / stretch;
    centre = rounded_product(static_cast<double>(output) + 0.5, scale);
    // in - 1 bounds what the rounding of sides beyond 2^24 to float can push past the end
    begin = static_cast<int>(within(centre - support + 0.5, 0.0, static_cast<double>(in - 1)));
    end = static_cast<int>(least(static_cast<double>(in), centre + support + 0.5));
  }
  /// The weight of source pixel x, before all are divided by their sum.
  [[nodiscard]] DM2_HOST_DEVICE double operator()(int x) const noexcept {
    return filter_value(filter, rounded_product(x - centre + 0.5, inverse));
  }
};

/// Source pixels an output pixel. Pillow passes the source's extent as float, which matters beyond 2^24 pixels.
[[nodiscard]] DM2_HOST_DEVICE inline double axis_scale(int in, std::int64_t out) noexcept {
  return static_cast<double>(static_cast<float>(in)) / static_cast<double>(out);
}

/// A weight in units of 2^-22, rounded half away from zero.
[[nodiscard]] DM2_HOST_DEVICE inline std::int32_t fixed_weight(double v) noexcept {
  return static_cast<std::int32_t>((v < 0 ? -0.5 : 0.5) + v * (1 << weight_bits));
}

/// For `count` outputs of one axis: output i is the sum over t of weight[i * taps + t] * source[first[i] + t].
///
/// Every output has the same number of taps, so that loops over them have one trip count; where fewer are needed the
/// weights are zero. 0 <= first[i] and first[i] + taps <= the source's size.
struct axis_weights {
  int taps = 0;
  std::vector<int> first;
  std::vector<std::int32_t> weight;  ///< in units of 2^-22
};

/// Computes one output's weights into `w`, of sum 1; returns the first source index they belong to.
inline int output_weights(int in, double scale, std::int64_t output, resize_filter filter, std::vector<double>& w) {
  weight_window const window{in, scale, output, filter};
  w.clear();
  double sum = 0;
  for (int x = window.begin; x < window.end; ++x) {
    w.push_back(window(x));
    sum += w.back();
  }
  for (double& v : w)
    if (sum != 0) v /= sum;
  return window.begin;
}

/// Weights of outputs [out_first, out_first + count) of a resize from `in` to `out` pixels. All sizes at least 1.
[[nodiscard]] inline axis_weights make_axis_weights(int in, std::int64_t out, std::int64_t out_first, int count,
                                                    resize_filter filter) {
  double const scale = axis_scale(in, out);
  axis_weights a;
  a.first.resize(static_cast<std::size_t>(count));
  std::vector<double> w;
  std::vector<std::int32_t> fixed;
  std::vector<int> used(a.first.size());
  for (std::size_t i = 0; i < a.first.size(); ++i) {
    a.first[i] = output_weights(in, scale, out_first + static_cast<std::int64_t>(i), filter, w);
    used[i] = static_cast<int>(w.size());
    a.taps = std::max(a.taps, used[i]);
    for (double const v : w) fixed.push_back(fixed_weight(v));
  }
  a.weight.resize(a.first.size() * static_cast<std::size_t>(a.taps));
  auto from = fixed.begin();
  for (std::size_t i = 0; i < a.first.size(); ++i) {
    int const shift = std::max(0, a.first[i] + a.taps - in);  // zero taps go before the picture's end, not past it
    auto const to = a.weight.begin() + static_cast<std::ptrdiff_t>(i) * a.taps + shift;
    std::copy_n(from, used[i], to);
    from += used[i];
    a.first[i] -= shift;
  }
  return a;
}

}  // namespace detail
}  // namespace dm2
