/// @file
/// Asks whether a file holds a model of some configuration.
#pragma once

#include <dm2/io/checkpoint.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/model/parameter_table.hpp>

#include <string>
#include <vector>

namespace dm2 {

/// All differences between a file and a model of configuration C, a line each. load says the first. Empty where the
/// file fits.
template <config C>
[[nodiscard]] std::vector<std::string> checkpoint_differences(tensor_file const& file) {
  return detail::fit_model(C, parameter_table<C>, file).differences;
}

/// The same for a configuration of run time.
[[nodiscard]] inline std::vector<std::string> checkpoint_differences(model_table const& table,
                                                                     tensor_file const& file) {
  return detail::fit_model(table.configuration(), table.entries(), file).differences;
}

}  // namespace dm2
