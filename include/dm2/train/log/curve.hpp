/// @file
/// The points of a chart's curves: which can be drawn, smoothed, and as few as a picture shows.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/train/log/axis.hpp>
#include <dm2/train/log/canvas.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {

/// A curve of a chart: y over x, both of one length.
struct chart_curve {
  std::string name;       ///< for the legend
  std::vector<double> x;  ///< [points], growing
  std::vector<double> y;  ///< [points]; points that are not finite, or cannot stand on a logarithmic axis, are left out
};

namespace detail {

/// Whether an axis can show the value. Past 1e100 an axis's own arithmetic would overflow.
[[nodiscard]] inline bool can_show(double value, bool log) noexcept {
  return std::abs(value) < 1e100 && (!log || value > 1e-100);
}

/// The points of the curve that both axes can show, in the curve's own units.
[[nodiscard]] inline std::vector<point> shown_points(chart_curve const& c, bool log_x, bool log_y) {
  require_extent(("chart: y of curve " + c.name).c_str(), c.y.size(), c.x.size());
  std::vector<point> out;
  for (std::size_t i = 0; i < c.x.size(); ++i)
    if (can_show(c.x[i], log_x) && can_show(c.y[i], log_y)) out.push_back({c.x[i], c.y[i]});
  return out;
}

/// Means over the neighbours on both sides, which do not lag behind the curve as a mean over the past does:
///   mean[i] = sum_j w[i,j] y[j] / sum_j w[i,j],   w[i,j] = exp(-|x[i] - x[j]| / reach)
/// with x as places on `across`, 0 to 1; where `log`, of the logarithms. A curve whose points are far apart against
/// `reach` stays as it is; reach 0 changes nothing. The points are in the order of x.
inline void smooth(std::vector<point>& points, double reach, bool log, axis const& across) {
  if (!(reach > 0)) return;
  std::vector<double> sums(points.size()), weights(points.size());
  auto const add = [&](std::size_t i, std::size_t neighbour, double& sum, double& weight) {
    double const memory = std::exp(-std::abs(across.place(points[i].x) - across.place(points[neighbour].x)) / reach);
    sums[i] += sum *= memory;
    weights[i] += weight *= memory;
    double const own = log ? std::log(points[i].y) : points[i].y;
    sum += own;
    weight += 1;
  };
  double sum = 0, weight = 0;
  for (std::size_t i = 0; i < points.size(); ++i) add(i, i == 0 ? i : i - 1, sum, weight);
  sum = weight = 0;
  for (std::size_t i = points.size(); i-- > 0;) add(i, i + 1 == points.size() ? i : i + 1, sum, weight);
  for (std::size_t i = 0; i < points.size(); ++i) {
    double const own = log ? std::log(points[i].y) : points[i].y;
    double const mean = (sums[i] + own) / (weights[i] + 1);
    points[i].y = log ? std::exp(mean) : mean;
  }
}

/// The points, in pixels, without those that cannot be seen: of a run of points in half a column of pixels stay the
/// first, the last, the highest and the lowest. A curve of a million points is then drawn as fast as one of a thousand.
[[nodiscard]] inline std::vector<point> thinned(std::span<point const> points) {
  std::vector<point> out;
  for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    while (end < points.size() && std::floor(2 * points[end].x) == std::floor(2 * points[begin].x)) ++end;
    auto const column = points.subspan(begin, end - begin);
    if (column.size() <= 4) {
      out.insert(out.end(), column.begin(), column.end());
      continue;
    }
    auto const [low, high] =
        std::minmax_element(column.begin(), column.end(), [](point const& a, point const& b) { return a.y < b.y; });
    out.insert(out.end(), {column.front(), *std::min(low, high), *std::max(low, high), column.back()});
  }
  return out;
}

}  // namespace detail
}  // namespace dm2
