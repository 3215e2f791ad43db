/// @file
/// The configurations that the example programs know. A line in for_each_model adds one.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/checkpoint_differences.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/presets.hpp>

#include "configurations.hpp"

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dm2::example {

/// Calls f.template operator()<configuration>(name) for each.
template <class F>
void for_each_model(F&& f) {
  f.template operator()<tiny>("tiny");
  f.template operator()<small>("small");
  f.template operator()<micro>("micro");
  f.template operator()<quick>("quick");
}

[[nodiscard]] inline std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for_each_model([&]<config C>(char const* name) { names.emplace_back(name); });
  return names;
}

/// The name of the first model that the file fits; nothing where it fits none.
[[nodiscard]] inline std::optional<std::string> fitting_model(tensor_file const& file) {
  std::optional<std::string> found;
  for_each_model([&]<config C>(char const* name) {
    if (!found && checkpoint_differences<C>(file).empty()) found = name;
  });
  return found;
}

/// What is said of a file that fits no model: each one, and what the misfit comes from, or the first difference. Where
/// no name is any model's, the reason is one for all.
[[nodiscard]] inline std::string no_model_text(tensor_file const& file) {
  std::string text = "fits none of the models that this program was compiled with", alien;
  bool known = false;
  for_each_model([&]<config C>(char const* name) {
    std::span<parameter_entry const> const table{parameter_table<C>};
    auto const fit = detail::fit_model(C, table, file);
    std::string const cause = detail::misfit_cause(table, file.tensors(), fit.match);
    known = known || 2 * fit.match.found >= table.size();
    if (alien.empty() && !cause.empty()) alien = cause;
    text += "\n  " + describe(name, C) + "\n    " + (cause.empty() ? fit.differences.front() : cause) + " (" +
            std::to_string(fit.differences.size()) + (fit.differences.size() == 1 ? " difference)" : " differences)");
  });
  return known || alien.empty() ? text : "fits none of the models that this program was compiled with: " + alien;
}

/// `asked`, or where it is empty the model that the file fits. Throws file_error where there is none.
[[nodiscard]] inline std::string choose_model(tensor_file const& file, std::string const& asked) {
  if (!asked.empty()) return asked;
  if (auto const found = fitting_model(file)) return *found;
  throw file_error{file.path(), no_model_text(file)};
}

}  // namespace dm2::example
