/// @file
/// What a linear classifier makes of pictures: multinomial logistic regression on their pixels.
#pragma once

#include <dm2/core/random.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "draw.hpp"

namespace dm2::example::shapes {

/// Pictures as rows of numbers, and their classes.
struct pixel_rows {
  Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> pixels{};
  std::vector<int> labels{};

  [[nodiscard]] std::size_t size() const { return labels.size(); }
};

/// Softmax of an affine function of the pixels, which are scaled to -0.5..0.5, trained by Adam with weight decay.
class linear_classifier {
 public:
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  linear_classifier(Eigen::Index inputs, int outputs)
      : weight_{matrix::Zero(inputs + 1, outputs)}, first_{weight_}, second_{weight_} {}

  /// One pass over the rows in random order, 64 at a time.
  void train_epoch(pixel_rows const& rows, double rate, random_stream& random) {
    std::vector<std::size_t> order(rows.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(std::uint32_t(i))]);
    for (std::size_t first = 0; first < order.size(); first += batch)
      step(rows, {order.data() + first, std::min(batch, order.size() - first)}, rate);
  }

  /// The part of the rows whose class has the highest score.
  [[nodiscard]] double accuracy(pixel_rows const& rows) const {
    std::size_t right = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Eigen::Index best = 0;
      (gather(rows, {&i, 1}) * weight_).row(0).maxCoeff(&best);
      right += best == rows.labels[i] ? 1 : 0;
    }
    return rows.size() == 0 ? 0 : double(right) / double(rows.size());
  }

 private:
  static constexpr std::size_t batch = 64;

  [[nodiscard]] matrix gather(pixel_rows const& rows, std::span<std::size_t const> which) const {
    matrix x(Eigen::Index(which.size()), weight_.rows());
    for (std::size_t i = 0; i < which.size(); ++i) {
      auto const row = Eigen::Index(i);
      x.row(row).head(rows.pixels.cols()) =
          rows.pixels.row(Eigen::Index(which[i])).cast<float>().array() / 255.0f - 0.5f;
      x(row, rows.pixels.cols()) = 1;
    }
    return x;
  }

  void step(pixel_rows const& rows, std::span<std::size_t const> which, double rate) {
    matrix const x = gather(rows, which);
    matrix p = x * weight_;
    for (Eigen::Index r = 0; r < p.rows(); ++r) {
      p.row(r) = (p.row(r).array() - p.row(r).maxCoeff()).exp();
      p.row(r) /= p.row(r).sum();
      p(r, rows.labels[which[std::size_t(r)]]) -= 1;
    }
    matrix const gradient = x.transpose() * p / float(which.size());
    ++steps_;
    first_ = 0.9f * first_ + 0.1f * gradient;
    second_ = 0.999f * second_ + 0.001f * gradient.cwiseAbs2();
    float const a = float(1 / (1 - std::pow(0.9, steps_))), b = float(1 / (1 - std::pow(0.999, steps_)));
    weight_ *= float(1 - rate * 0.01);
    weight_.array() -= float(rate) * (a * first_.array()) / ((b * second_.array()).sqrt() + 1e-8f);
  }

  matrix weight_, first_, second_;
  double steps_ = 0;
};

/// What came of it.
struct linear_result {
  double train = 0, held_out = 0;  ///< accuracies
};

/// Trains for `epochs` epochs at falling rates. The held-out accuracy is that of the best epoch: the most that can be
/// said for the classifier.
[[nodiscard]] inline linear_result linear_baseline(pixel_rows const& train, pixel_rows const& held_out,
                                                   std::uint64_t seed, int epochs = 20) {
  linear_classifier classifier{train.pixels.cols(), int(classes.size())};
  random_stream random{seed, 2, 0};
  linear_result result;
  for (int e = 0; e < epochs; ++e) {
    classifier.train_epoch(train, 1e-3 * (1 - double(e) / epochs), random);
    result.held_out = std::max(result.held_out, classifier.accuracy(held_out));
  }
  result.train = classifier.accuracy(train);
  return result;
}

}  // namespace dm2::example::shapes
