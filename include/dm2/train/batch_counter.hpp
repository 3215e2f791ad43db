/// @file
/// How often a model is right on a batch.
#pragma once

#include <dm2/data/batch.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/evaluation.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace dm2 {
namespace detail {

/// A model's counts of one batch after another.
template <config C, class Context>
class batch_counter {
 public:
  /// Of the model as it is when it is called; the model outlives the counter.
  explicit batch_counter(model<C, Context>& net) : net_{net} {}

  /// The counts of a batch of pictures of the model's size.
  [[nodiscard]] evaluation operator()(batch const& b) {
    evaluation counts;
    pictures_.assign(b.pictures.begin(), b.pictures.end());
    logits_.resize(std::size_t(b.size) * net_.classes);
    net_.forward(pictures_, logits_);
    for (int i = 0; i < b.size; ++i)
      counts.add(std::span<scalar const>{logits_}.subspan(std::size_t(i) * net_.classes, net_.classes),
                 b.labels[std::size_t(i)]);
    return counts;
  }

 private:
  using scalar = typename Context::scalar;

  model<C, Context>& net_;
  std::vector<scalar> pictures_, logits_;
};

}  // namespace detail
}  // namespace dm2
