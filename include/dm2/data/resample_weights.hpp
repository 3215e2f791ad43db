/// @file
/// Pillow's antialiased resampling weights for one axis, in fixed point.
#pragma once

#include <dm2/core/compiler.hpp>

#include <algorithm>
#include <cmath>
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

/// x, rounded to double. A compiler may fuse x * y + z into one operation with one rounding, which shifts a weight that
/// lies near a half by one; a value that went through memory cannot be fused.
[[nodiscard]] inline double rounded(double x) noexcept {
  double volatile v = x;
  return v;
}

/// The filter at distance x (any sign), operation by operation as Pillow rounds it.
[[nodiscard]] inline double filter_value(resize_filter filter, double x) noexcept {
  x = std::abs(x);
  if (filter == resize_filter::bilinear) return x < 1 ? 1 - x : 0;
  if (x < 1) return rounded((rounded(1.5 * x) - 2.5) * x * x) + 1;
  if (x < 2) return (rounded((rounded((x - 5) * x) + 8) * x) - 4) * -0.5;
  return 0;
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

/// Computes one output's weights into `w`; returns the first source index they belong to.
///
/// A source of `in` pixels spans the same length as `out` outputs. The filter is stretched to the source's grid when
/// shrinking, sampled at pixel centres inside the picture, normalised to sum 1, and rounded half away from zero.
inline int output_weights(int in, double scale, std::int64_t output, resize_filter filter, std::vector<double>& w) {
  double const stretch = std::max(scale, 1.0);
  double const support = (filter == resize_filter::bilinear ? 1.0 : 2.0) * stretch;
  double const inverse = 1.0 / stretch;
  double const centre = rounded((static_cast<double>(output) + 0.5) * scale);
  // in - 1 bounds what the rounding of sides beyond 2^24 to float can push past the end
  auto const begin = static_cast<int>(std::clamp<double>(centre - support + 0.5, 0, in - 1));
  auto const end = static_cast<int>(std::min<double>(in, centre + support + 0.5));
  w.clear();
  double sum = 0;
  for (int x = begin; x < end; ++x) {
    w.push_back(filter_value(filter, rounded((x - centre + 0.5) * inverse)));
    sum += w.back();
  }
  for (double& v : w)
    if (sum != 0) v /= sum;
  return begin;
}

/// Weights of outputs [out_first, out_first + count) of a resize from `in` to `out` pixels. All sizes at least 1.
[[nodiscard]] inline axis_weights make_axis_weights(int in, std::int64_t out, std::int64_t out_first, int count,
                                                    resize_filter filter) {
  // Pillow passes the source's extent as float, which matters beyond 2^24 pixels
  double const scale = static_cast<double>(static_cast<float>(in)) / static_cast<double>(out);
  axis_weights a;
  a.first.resize(static_cast<std::size_t>(count));
  std::vector<double> w;
  std::vector<std::int32_t> fixed;
  std::vector<int> used(a.first.size());
  for (std::size_t i = 0; i < a.first.size(); ++i) {
    a.first[i] = output_weights(in, scale, out_first + static_cast<std::int64_t>(i), filter, w);
    used[i] = static_cast<int>(w.size());
    a.taps = std::max(a.taps, used[i]);
    for (double const v : w) fixed.push_back(static_cast<std::int32_t>((v < 0 ? -0.5 : 0.5) + v * (1 << weight_bits)));
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
