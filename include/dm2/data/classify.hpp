/// @file
/// From a picture to class numbers and probabilities, in one call.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2 {

/// A class and how likely the model holds it.
struct prediction {
  int index;          ///< the class, 0 .. classes - 1
  float probability;  ///< softmax over all classes
};

namespace detail {

inline void require_k(char const* what, int k) {
  if (k < 1) throw shape_error{std::string{what} + ": k is " + std::to_string(k) + ", expected at least 1"};
}

}  // namespace detail

/// The k largest of one picture's logits, largest first, with their softmax over all of them.
///
/// Fewer than k logits give as many as there are. Equal logits keep the order of their classes. A logit of -infinity is
/// a probability of 0.
///
/// Shapes   logits [classes].
/// Throws   shape_error if k is less than 1; std::domain_error if a logit is NaN or infinity, or all are -infinity, as
///          then no class is known to be the best.
template <std::floating_point T>
[[nodiscard]] std::vector<prediction> top_k(std::span<T const> logits, int k) {
  detail::require_k("top_k", k);
  bool any = logits.empty();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<T>::infinity())
      throw std::domain_error{"top_k: the logit of class " + std::to_string(i) + " is not a finite number"};
    any = any || std::isfinite(logits[i]);
  }
  if (!any) throw std::domain_error{"top_k: no logit is a finite number"};
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto const before = [logits](int a, int b) {
    T const x = logits[std::size_t(a)], y = logits[std::size_t(b)];
    return x != y ? x > y : a < b;
  };
  auto const kept = order.begin() + std::min(std::ptrdiff_t(k), std::ptrdiff_t(order.size()));
  std::partial_sort(order.begin(), kept, order.end(), before);
  std::vector<prediction> out;
  if (order.empty()) return out;
  double const largest = double(logits[std::size_t(order.front())]);
  double total = 0;
  for (T const logit : logits) total += std::exp(double(logit) - largest);
  for (auto i = order.begin(); i != kept; ++i)
    out.push_back({*i, float(std::exp(double(logits[std::size_t(*i)]) - largest) / total)});
  return out;
}

/// The input of a model of configuration C: the picture after the evaluation transform for C's image size, normalised
/// with ImageNet's statistics.
///
/// Shapes   p [any, any, 3] bytes; out [3, C.image.height, C.image.width].
/// Writes   out (=).
/// Throws   shape_error if p has no pixel or out another size; nothing is written then.
template <config C, std::floating_point T>
void evaluation_input(picture const& p, std::span<T> out) {
  static_assert(C.channels == 3, "dm2::evaluation_input: config.channels must be 3, pictures are RGB");
  require_extent("evaluation_input: out", out.size(), std::size_t(sizes<C>::pixels));
  picture const kept = evaluation_transform(p, C.image);
  if constexpr (std::same_as<T, float>) {
    normalise(kept, out);
  } else {
    std::vector<float> values(out.size());
    normalise(kept, std::span<float>{values});
    std::copy(values.begin(), values.end(), out.begin());
  }
}

/// The k best classes of each picture, best first: evaluation_input, forward, top_k.
///
/// Memory is taken for all pictures at once; hand over long lists in parts.
///
/// Throws   shape_error if a picture has no pixel or k is less than 1; std::domain_error if the model's logits are not
///          finite numbers, as with weights that are not.
template <config C, class Context>
[[nodiscard]] std::vector<std::vector<prediction>> classify(model<C, Context>& net, std::span<picture const> pictures,
                                                            int k) {
  using scalar = typename Context::scalar;
  constexpr std::size_t pixels = model<C, Context>::pixels, classes = model<C, Context>::classes;
  detail::require_k("classify", k);
  std::vector<std::vector<prediction>> out;
  if (pictures.empty()) return out;
  std::vector<scalar> input(pictures.size() * pixels), logits(pictures.size() * classes);
  for (std::size_t i = 0; i < pictures.size(); ++i)
    evaluation_input<C>(pictures[i], std::span{input}.subspan(i * pixels, pixels));
  net.forward(input, logits);
  for (std::size_t i = 0; i < pictures.size(); ++i)
    out.push_back(top_k(std::span<scalar const>{logits}.subspan(i * classes, classes), k));
  return out;
}

/// The k best classes of one picture, best first:
///
///     dm2::model<dm2::tiny> net;
///     dm2::load(net, "DeMansia 2 Tiny EMA.ckpt");
///     for (auto [index, probability] : dm2::classify(net, dm2::read_image("cat.jpg"), 5)) ...
///
/// Throws   as for several pictures.
template <config C, class Context>
[[nodiscard]] std::vector<prediction> classify(model<C, Context>& net, picture const& p, int k) {
  return classify(net, std::span{&p, 1}, k).front();
}

}  // namespace dm2
