/// @file
/// Counts over labelled pictures: how often a model is right.
#pragma once

#include <dm2/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

namespace dm2 {

/// Counts over labelled samples.
struct evaluation {
  std::size_t samples = 0;  ///< added so far
  std::size_t top1 = 0;     ///< samples whose class has the highest logit
  std::size_t top5 = 0;     ///< samples whose class is among the five highest logits
  double loss_sum = 0;      ///< of the cross entropies with the class, unsmoothed

  /// Top-1 accuracy, 0 to 1; 0 without samples.
  [[nodiscard]] double accuracy() const { return share(double(top1)); }
  /// Top-5 accuracy, 0 to 1; 0 without samples.
  [[nodiscard]] double accuracy5() const { return share(double(top5)); }
  /// Mean cross entropy.
  [[nodiscard]] double loss() const { return share(loss_sum); }

  /// Adds one sample's logits [classes]. One that equals the right class's counts as before it, and NaN is never right:
  /// neither a NaN of the right class's own, nor a class behind another's. The loss is NaN then.
  ///
  /// Throws shape_error where there is no such class; nothing is added then.
  template <class T>
  void add(std::span<T const> logits, int label) {
    require_class("evaluation.add.label", label, logits.size());
    T const right = logits[std::size_t(label)];
    std::size_t before = 0;
    double top = double(logits[0]), sum = 0;
    for (std::size_t c = 0; c < logits.size(); ++c) {
      before += c != std::size_t(label) && !(logits[c] < right) ? 1 : 0;
      top = std::max(top, double(logits[c]));
    }
    for (T l : logits) sum += std::exp(double(l) - top);
    if (std::isnan(right)) before = logits.size();
    ++samples;
    top1 += before < 1 ? 1 : 0;
    top5 += before < 5 ? 1 : 0;
    loss_sum += top + std::log(sum) - double(right);
  }
  /// Adds another's counts.
  evaluation& operator+=(evaluation const& other) {
    samples += other.samples;
    top1 += other.top1;
    top5 += other.top5;
    loss_sum += other.loss_sum;
    return *this;
  }

 private:
  [[nodiscard]] double share(double of) const { return samples == 0 ? 0 : of / double(samples); }
};

}  // namespace dm2
