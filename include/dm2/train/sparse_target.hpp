/// @file
/// Training targets in the form in which they are few: a constant a row, and the classes that the teacher scored.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/train/token_label_target.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2 {

/// The targets of a batch: for each sample a row for the class token and one for each patch.
///
/// A label map's row is off + on softmax(scores): RoIAlign gives a score to the few tens of classes whose cells it
/// touches, and all others share exp(0) / Z. At 1000 classes and 196 patches a sample takes about 50 KB where the dense
/// rows take 792. Memory is kept from batch to batch.
template <std::floating_point T>
class sparse_targets {
 public:
  /// No rows yet. Throws std::invalid_argument as label_smoothing does.
  explicit sparse_targets(int classes, double smoothing = 0.1)
      : smoothing_{smoothing, classes}, scores_(std::size_t(classes)), begin_{0} {}

  /// Removes every row and keeps the memory: call before each batch.
  void clear() {
    base_.clear();
    index_.clear();
    extra_.clear();
    begin_.assign(1, 0);
  }

  /// Adds a sample with a label map; arguments and errors as token_label_target, nothing is added where it throws.
  template <class M>
  void add(label_map<M> const& map, crop_fraction crop, int label, int rows, int cols, crop_convention convention) {
    detail::check_label_map(map, label, int(scores_.size()));
    detail::require_grid("sparse_targets", rows, cols);
    detail::for_each_roi_bin(map, crop, rows, cols, convention, std::span<double>{scores_}, [&] { add_scores(); });
  }

  /// Adds a sample without a label map: the smoothed one-hot class in 1 + tokens rows.
  /// Throws shape_error if the class is out of range or there is no patch; nothing is added then.
  void add(int label, int tokens) {
    detail::require_grid("sparse_targets", tokens, 1);
    require_class("sparse_targets.label", label, scores_.size());
    for (int r = 0; r < 1 + tokens; ++r) {
      base_.push_back(T(smoothing_.off));
      index_.push_back(std::uint32_t(label));
      extra_.push_back(T(smoothing_.on - smoothing_.off));
      begin_.push_back(std::uint32_t(index_.size()));
    }
  }

  /// Valid until the next add or clear.
  [[nodiscard]] sparse_rows<T> rows() const {
    return {base_.data(), begin_.data(), index_.data(), extra_.data(), base_.size()};
  }
  /// Number of classes that the rows are over.
  [[nodiscard]] int classes() const { return int(scores_.size()); }
  /// Bytes in use.
  [[nodiscard]] std::size_t bytes() const {
    return base_.size() * sizeof(T) + begin_.size() * sizeof(std::uint32_t) +
           index_.size() * (sizeof(std::uint32_t) + sizeof(T));
  }

 private:
  /// One row: on softmax(scores) + off, where a class without a score counts as 0.
  void add_scores() {
    double top = -HUGE_VAL, sum = 0;
    std::size_t absent = 0;
    for (double v : scores_) {
      top = std::max(top, v);
      absent += v == 0 ? 1 : 0;
    }
    sum = double(absent) * std::exp(-top);
    for (double v : scores_)
      if (v != 0) sum += std::exp(v - top);
    double const share = std::exp(-top) / sum;  // of a class without a score
    base_.push_back(T(smoothing_.on * share + smoothing_.off));
    for (std::size_t c = 0; c < scores_.size(); ++c) {
      if (scores_[c] == 0) continue;
      index_.push_back(std::uint32_t(c));
      extra_.push_back(T(smoothing_.on * (std::exp(scores_[c] - top) / sum - share)));
    }
    begin_.push_back(std::uint32_t(index_.size()));
  }

  label_smoothing smoothing_;
  std::vector<double> scores_;
  std::vector<T> base_, extra_;
  std::vector<std::uint32_t> begin_, index_;
};

}  // namespace dm2
