/// @file
/// A model's training checkpoint: of the model, its average and its optimizer.
#pragma once

#include <dm2/model/model.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/training_file.hpp>
#include <dm2/train/training_state.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <utility>

namespace dm2 {
namespace detail {

/// A run's numbers, of its parts.
template <config C, class Context>
training_numbers<typename Context::scalar> numbers_of(model<C, Context>& net, ema<C, Context>& average,
                                                      optimizer<C, Context>& rule) {
  return {net.table(), net.state(), average.state(), rule.momentum(), rule.second_moment(), net.counters()};
}

}  // namespace detail

/// Writes a model's training checkpoint, whole or not at all. `progress` is for the trainer that resumes; `metadata` is
/// added. Throws as the above.
template <config C, class Context>
void save_training(std::filesystem::path const& path, model<C, Context>& net, ema<C, Context>& average,
                   optimizer<C, Context>& rule, nlohmann::json progress, std::map<std::string, std::string> metadata) {
  save_training(path, detail::numbers_of(net, average, rule),
                {C, rule.options().kind, {rule.steps(), average.steps()}, std::move(progress), std::move(metadata)});
}

/// Fills model, averages and optimizer from a training checkpoint and returns the trainer's progress. Without
/// `with_optimizer` the optimizer stays as it is. Throws as the above.
template <config C, class Context>
nlohmann::json resume_training(std::filesystem::path const& path, model<C, Context>& net, ema<C, Context>& average,
                               optimizer<C, Context>& rule, bool with_optimizer = true) {
  auto found = resume_training(path, C, rule.options().kind, detail::numbers_of(net, average, rule), with_optimizer);
  if (with_optimizer) rule.set_steps(found.steps.optimizer);
  average.set_steps(found.steps.average);
  return std::move(found.progress);
}

}  // namespace dm2
