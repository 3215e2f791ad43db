/// @file
/// Accuracy over a set of labelled pictures.
#pragma once

#include <dm2/comm/communicator.hpp>
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
#include <utility>
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

/// Throws std::invalid_argument unless a loader reads what process processes.rank() is to read. `group` is as in
/// loader_options.
inline void require_dealing(std::string const& name, loader const& from, communicator const& processes, int group) {
  loader_options const& o = from.options();
  if (o.world != processes.size() || o.rank != processes.rank())
    throw std::invalid_argument{name + " reads for process " + std::to_string(o.rank) + " of " +
                                std::to_string(o.world) + ", this one is " + std::to_string(processes.rank()) + " of " +
                                std::to_string(processes.size())};
  if (o.world > 1 && o.group != group)
    throw std::invalid_argument{name + " has groups of " + std::to_string(o.group) + " batches, expected " +
                                std::to_string(group)};
}

/// A batch's counts, and its place in the set.
struct batch_evaluation {
  std::size_t number = 0;
  evaluation counts;
};

/// Every process's counts, added in the order of the batches, so that the sums do not depend on who counted them.
/// `most`: the most batches of a process.
inline evaluation add_batches(std::vector<batch_evaluation> own, std::size_t most, communicator& processes) {
  std::size_t const world = std::size_t(processes.size());
  own.insert(own.begin(), {own.size(), {}});  // the first says how many follow
  own.resize(most + 1);
  std::vector<batch_evaluation> all(own.size() * world);
  processes.gather("evaluation", std::span<batch_evaluation const>{own}, std::span{all});
  std::vector<batch_evaluation> batches;
  for (std::size_t r = 0; r < world; ++r) {
    auto const first = all.begin() + std::ptrdiff_t(r * own.size());
    batches.insert(batches.end(), first + 1, first + 1 + std::ptrdiff_t(std::min(first->number, most)));
  }
  std::sort(batches.begin(), batches.end(), [](auto const& a, auto const& b) { return a.number < b.number; });
  evaluation sum;
  for (batch_evaluation const& b : batches) sum += b.counts;
  return sum;
}

}  // namespace detail

/// Top-1, top-5 and loss of a model over a loader's samples; with several processes, over those of all of them, each of
/// which has a loader with its rank. Sums go over the samples of a batch, then over the batches in order: they do not
/// depend on the number of processes.
///
/// `watch`, where given, is called with the samples that this process has done after each batch; false stops, and what
/// is counted so far is returned.
/// Throws   std::invalid_argument for a loader that is not in evaluation mode, or whose rank and number of processes
/// are
///          others; shape_error for one whose pictures or number of classes are not the model's; what loader::next
///          throws; process_error.
template <config C, class Context>
evaluation evaluate(model<C, Context>& net, loader& samples, std::function<bool(std::size_t)> const& watch = {},
                    communicator& processes = one_process()) {
  using scalar = typename Context::scalar;
  detail::require_loader<C>("evaluate: the loader", samples, loading::evaluation);
  detail::require_dealing("evaluate: the loader", samples, processes, 0);
  std::vector<detail::batch_evaluation> done;
  std::vector<scalar> pictures, logits;
  std::size_t count = 0;
  bool whole = true;
  samples.start(0);
  while (batch const* b = whole ? samples.next() : nullptr) {
    pictures.assign(b->pictures.begin(), b->pictures.end());
    logits.resize(std::size_t(b->size) * net.classes);
    net.forward(pictures, logits);
    detail::batch_evaluation& result = done.emplace_back(detail::batch_evaluation{b->number, {}});
    for (int i = 0; i < b->size; ++i)
      result.counts.add(std::span<scalar const>{logits}.subspan(std::size_t(i) * net.classes, net.classes),
                        b->labels[std::size_t(i)]);
    count += result.counts.samples;
    whole = !watch || watch(count);
  }
  std::size_t const world = std::size_t(processes.size());
  return detail::add_batches(std::move(done), (samples.batches() + world - 1) / world, processes);
}

}  // namespace dm2
