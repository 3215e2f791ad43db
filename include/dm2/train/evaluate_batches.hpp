/// @file
/// A loader's batches, counted by whatever counts one, over every process.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/error.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/evaluation.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// Throws unless a loader fits a model of configuration c: shape_error for the pictures' size and the classes,
/// std::invalid_argument for the mode. Messages call the loader `name`.
inline void require_loader(config const& c, std::string const& name, loader const& from, loading mode) {
  if (c.channels != 3)
    throw shape_error{name + " gives pictures of 3 channels, the model takes " + std::to_string(c.channels)};
  auto const text = [](image_extent e) { return std::to_string(e.height) + " x " + std::to_string(e.width); };
  loader_options const& o = from.options();
  if (o.mode != mode)
    throw std::invalid_argument{name + " is in " + (mode == loading::training ? "evaluation" : "training") +
                                " mode, expected " +
                                (mode == loading::training ? "loading::training, which shuffles"
                                                           : "loading::evaluation, which leaves no sample out")};
  if (o.image != c.image)
    throw shape_error{name + " gives pictures of " + text(o.image) + ", the model takes " + text(c.image)};
  if (from.classes() != c.classes)
    throw shape_error{name + " has " + std::to_string(from.classes()) + " classes, the model " +
                      std::to_string(c.classes)};
  if (from.has_label_maps() && o.label_map_classes > c.classes)
    throw shape_error{name + " lets label maps name " + std::to_string(o.label_map_classes) +
                      " classes, the model has " + std::to_string(c.classes)};
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

/// Counts a loader's batches with `count`(batch const&) -> evaluation, and adds what every process has counted. `watch`
/// as for evaluate.
template <class Count>
evaluation evaluate_batches(loader& samples, Count const& count, std::function<bool(std::size_t)> const& watch,
                            communicator& processes) {
  std::vector<batch_evaluation> done;
  std::size_t seen = 0;
  bool whole = true;
  samples.start(0);
  while (batch const* b = whole ? samples.next() : nullptr) {
    seen += done.emplace_back(batch_evaluation{b->number, count(*b)}).counts.samples;
    whole = !watch || watch(seen);
  }
  std::size_t const world = std::size_t(processes.size());
  return add_batches(std::move(done), (samples.batches() + world - 1) / world, processes);
}

}  // namespace detail
}  // namespace dm2
