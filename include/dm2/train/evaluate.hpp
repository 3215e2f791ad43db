/// @file
/// Accuracy over a set of labelled pictures.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

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

namespace detail {

/// Throws unless a loader fits a model of configuration C: shape_error for the pictures' size and the classes,
/// std::invalid_argument for the mode. Messages call the loader `name`.
template <config C>
void require_loader(std::string const& name, loader const& from, loading mode) {
  static_assert(C.channels == 3, "dm2::loader: config.channels must be 3, its pictures are RGB");
  auto const text = [](image_extent e) { return std::to_string(e.height) + " x " + std::to_string(e.width); };
  loader_options const& o = from.options();
  if (o.mode != mode)
    throw std::invalid_argument{name + " is in " + (mode == loading::training ? "evaluation" : "training") +
                                " mode, expected " +
                                (mode == loading::training ? "loading::training, which shuffles"
                                                           : "loading::evaluation, which leaves no sample out")};
  if (o.image != C.image)
    throw shape_error{name + " gives pictures of " + text(o.image) + ", the model takes " + text(C.image)};
  if (from.classes() != C.classes)
    throw shape_error{name + " has " + std::to_string(from.classes()) + " classes, the model " +
                      std::to_string(C.classes)};
  if (from.has_label_maps() && o.label_map_classes > C.classes)
    throw shape_error{name + " lets label maps name " + std::to_string(o.label_map_classes) +
                      " classes, the model has " + std::to_string(C.classes)};
}

}  // namespace detail

/// Top-1, top-5 and loss of a model over a loader's samples.
///
/// `watch`, where given, is called with the samples done after each batch; false stops, and what is counted so far is
/// returned.
/// Throws   std::invalid_argument for a loader that is not in evaluation mode, shape_error for one whose pictures or
///          number of classes are not the model's; what loader::next throws.
template <config C, class Context>
evaluation evaluate(model<C, Context>& net, loader& samples, std::function<bool(std::size_t)> const& watch = {}) {
  using scalar = typename Context::scalar;
  detail::require_loader<C>("evaluate: the loader", samples, loading::evaluation);
  evaluation result;
  std::vector<scalar> pictures, logits;
  samples.start(0);
  while (batch const* b = samples.next()) {
    pictures.assign(b->pictures.begin(), b->pictures.end());
    logits.resize(std::size_t(b->size) * net.classes);
    net.forward(pictures, logits);
    for (int i = 0; i < b->size; ++i)
      result.add(std::span<scalar const>{logits}.subspan(std::size_t(i) * net.classes, net.classes),
                 b->labels[std::size_t(i)]);
    if (watch && !watch(result.samples)) break;
  }
  return result;
}

}  // namespace dm2
