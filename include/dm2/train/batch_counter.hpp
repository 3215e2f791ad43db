/// @file
/// How often a model is right on a batch.
#pragma once

#include <dm2/data/batch.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/evaluation.hpp>

#include <cstddef>
#include <span>
#include <stdexcept>
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
    logits_.resize(std::size_t(b.size) * net_.classes);
    if (b.is_raw())
      forward_raw(b);
    else
      forward(b);
    for (int i = 0; i < b.size; ++i)
      counts.add(std::span<scalar const>{logits_}.subspan(std::size_t(i) * net_.classes, net_.classes),
                 b.labels[std::size_t(i)]);
    return counts;
  }

 private:
  using scalar = typename Context::scalar;

  void forward(batch const& b) {
    pictures_.assign(b.pictures.begin(), b.pictures.end());
    net_.forward(pictures_, logits_);
  }
  void forward_raw(batch const& b) {
    if constexpr (requires { net_.forward(b.raw, std::span{logits_}); })
      net_.forward(b.raw, std::span{logits_});
    else
      throw std::logic_error{"dm2: this model takes finished pictures, the loader leaves raw ones"};
  }

  model<C, Context>& net_;
  std::vector<scalar> pictures_, logits_;
};

}  // namespace detail
}  // namespace dm2
