/// @file
/// Training targets: from a label map of the teacher's scores, or from the class alone.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/label_map.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dm2 {

/// A smoothed one-hot target's values at the right class and elsewhere: 1 - s + s / classes, and s / classes.
struct label_smoothing {
  double on;   ///< at the right class
  double off;  ///< at every other class

  /// `smoothing` s is from 0 (one-hot) to 1 (uniform). Throws std::invalid_argument where it is not, or where there is
  /// no class.
  constexpr label_smoothing(double smoothing, int classes)
      : on{1 - smoothing + smoothing / classes}, off{smoothing / classes} {
    detail::require_option(classes >= 1, "label_smoothing: classes", classes, "at least 1");
    detail::require_option(smoothing >= 0 && smoothing <= 1, "label_smoothing: smoothing", smoothing, "0 to 1");
  }
};

namespace detail {

/// One axis of a bilinear sample: cells lo and hi with weights 1 - part and part.
struct sample_axis {
  int lo, hi;
  double part;

  /// v is clamped to the map of `size` cells.
  static sample_axis at(double v, int size) {
    v = std::max(v, 0.0);
    int const lo = int(v);
    if (lo >= size - 1) return {size - 1, size - 1, 0.0};
    return {lo, lo + 1, v - lo};
  }
};

/// One axis of a region of interest: where it begins, its bins' width, and the samples in each.
struct roi_axis {
  double first, bin;
  int samples;

  roi_axis(double lo, double hi, int bins) : first{lo} {
    double const extent = std::max(hi - lo, 1.0);
    bin = extent / bins;
    samples = int(std::ceil(extent / bins));
  }
  [[nodiscard]] double at(int i, int sample) const { return first + i * bin + (sample + 0.5) * bin / samples; }
};

/// scores[class] += weight score, for the five classes of one cell.
template <class T>
void add_cell(label_map<T> const& map, int cell, double weight, std::span<double> scores) {
  if (weight == 0) return;
  for (int k = 0; k < label_map<T>::top; ++k)
    scores[std::size_t(map.index(k, cell))] += weight * double(map.score(k, cell));
}

/// RoIAlign (He et al. 2017, arXiv 1703.06870), the variant without the half-pixel shift: the average of bilinear
/// samples in bin (i, j). Samples more than a cell outside the map count as 0.
template <class T>
void roi_bin(label_map<T> const& map, roi_axis const& y, roi_axis const& x, int i, int j, std::span<double> scores) {
  std::fill(scores.begin(), scores.end(), 0.0);
  double const share = 1.0 / (double(y.samples) * x.samples);
  for (int a = 0; a < y.samples; ++a)
    for (int b = 0; b < x.samples; ++b) {
      double const v = y.at(i, a), u = x.at(j, b);
      if (v < -1 || v > map.height || u < -1 || u > map.width) continue;
      sample_axis const r = sample_axis::at(v, map.height), c = sample_axis::at(u, map.width);
      add_cell(map, r.lo * map.width + c.lo, share * (1 - r.part) * (1 - c.part), scores);
      add_cell(map, r.lo * map.width + c.hi, share * (1 - r.part) * c.part, scores);
      add_cell(map, r.hi * map.width + c.lo, share * r.part * (1 - c.part), scores);
      add_cell(map, r.hi * map.width + c.hi, share * r.part * c.part, scores);
    }
}

/// target = softmax(scores) on + off.
template <class T>
void softmax_target(std::span<double> scores, label_smoothing s, std::span<T> target) {
  double const top = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& v : scores) sum += v = std::exp(v - top);
  for (std::size_t c = 0; c < scores.size(); ++c) target[c] = T(scores[c] / sum * s.on + s.off);
}

/// Calls row() with `scores` filled for the whole crop, then for each bin of rows x cols.
template <class T, class Row>
void for_each_roi_bin(label_map<T> const& map, crop_fraction crop, int rows, int cols, crop_convention convention,
                      std::span<double> scores, Row const& row) {
  bool const transposed = convention == crop_convention::published;
  if (transposed) crop = {crop.left, crop.top, crop.width, crop.height};
  double const cells_y = transposed ? map.width : map.height, cells_x = map.width;
  double const y0 = crop.top * cells_y - 0.5, y1 = (crop.top + crop.height) * cells_y - 0.5;
  double const x0 = crop.left * cells_x - 0.5, x1 = (crop.left + crop.width) * cells_x - 0.5;
  roi_bin(map, {y0, y1, 1}, {x0, x1, 1}, 0, 0, scores);
  row();
  roi_axis const y{y0, y1, rows}, x{x0, x1, cols};
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) {
      roi_bin(map, y, x, i, j, scores);
      row();
    }
}

/// A number of a label map in a message: whole ones without a point.
[[nodiscard]] inline std::string number_text(double v) {
  bool const whole = std::abs(v) < 1e9 && v == std::trunc(v);
  return whole ? std::to_string(int(v)) : std::to_string(v);
}

/// Throws unless there is a patch.
inline void require_grid(char const* what, int rows, int cols) {
  if (rows < 1 || cols < 1)
    throw shape_error{std::string{what} + ": got a grid of " + std::to_string(rows) + " x " + std::to_string(cols) +
                      " patches, expected at least 1 x 1"};
}

/// Throws unless the map and the class are of the promised kind.
template <class T>
void check_label_map(label_map<T> const& map, int label, int classes) {
  if (map.height < 1 || map.width < 1) throw shape_error{"token_label_target.map: height and width must be at least 1"};
  std::size_t const cells = std::size_t(map.height) * std::size_t(map.width);
  require_extent("token_label_target.map", map.data.size(), 2 * label_map<T>::top * cells);
  require_class("token_label_target.label", label, std::size_t(std::max(classes, 0)));
  for (T v : map.data.subspan(label_map<T>::top * cells))
    if (!(v >= T(0) && v < T(classes)))
      throw shape_error{"token_label_target.map: got class " + number_text(double(v)) + ", expected 0.." +
                        std::to_string(classes - 1)};
}

}  // namespace detail

/// Sizes of a dense target.
struct target_shape {
  int classes = 0;  ///< of the model
  int rows = 0;     ///< of patches
  int cols = 0;     ///< patches a row
};

/// The target of one sample from its label map: RoIAlign of the crop on the map for the whole and for each patch,
/// softmax over the classes (absent ones count as score 0), smoothed.
///
/// Shapes   target [2 + rows cols, classes], of `shape`: the smoothed ground truth, the class token's target, each
///          patch's; scores: scratch for `classes` numbers.
/// Writes   target (=).
/// Throws   shape_error if a size disagrees, the grid has no patch or a class index is out of range,
///          std::invalid_argument where the smoothing is not 0 to 1; nothing is written then.
/// Source   Jiang et al. 2021 (arXiv 2104.10858); Yun et al. 2021 (arXiv 2101.05022) for the crop.
template <class M, std::floating_point T>
void token_label_target(label_map<M> const& map, crop_fraction crop, int label, target_shape shape, double smoothing,
                        crop_convention convention, std::span<double> scores, std::span<T> target) {
  auto const [classes, rows, cols] = shape;
  detail::check_label_map(map, label, classes);
  detail::require_grid("token_label_target", rows, cols);
  std::size_t const width = std::size_t(classes);
  require_extent("token_label_target.scores", scores.size(), width);
  require_extent("token_label_target.target", target.size(), (2 + std::size_t(rows) * std::size_t(cols)) * width);
  label_smoothing const s{smoothing, classes};
  std::fill_n(target.begin(), width, T(s.off));
  target[std::size_t(label)] = T(s.on);
  std::size_t at = width;
  detail::for_each_roi_bin(map, crop, rows, cols, convention, scores, [&] {
    detail::softmax_target(scores, s, target.subspan(at, width));
    at += width;
  });
}

/// The target of one sample without a label map: the smoothed one-hot class for every token.
///
/// Shapes   target [2 + tokens, classes]. Writes target (=).
/// Throws   shape_error if the size or the class is out of range, std::invalid_argument where the smoothing is not 0 to
///          1; nothing is written then.
template <std::floating_point T>
void hard_label_target(int label, int classes, int tokens, double smoothing, std::span<T> target) {
  detail::require_grid("hard_label_target", tokens, 1);
  std::size_t const width = std::size_t(std::max(classes, 0));
  require_extent("hard_label_target.target", target.size(), (2 + std::size_t(tokens)) * width);
  require_class("hard_label_target.label", label, width);
  label_smoothing const s{smoothing, classes};
  std::fill(target.begin(), target.end(), T(s.off));
  for (std::size_t r = 0; r < 2 + std::size_t(tokens); ++r) target[r * width + std::size_t(label)] = T(s.on);
}

}  // namespace dm2
