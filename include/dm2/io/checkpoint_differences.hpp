/// @file
/// Whether a file holds a model of some configuration, asked before the model is made.
#pragma once

#include <dm2/io/checkpoint.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/parameter_table.hpp>

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {

/// Everything in which a file is not a model of configuration C, a line each: what load would say. Empty where it fits.
template <config C>
[[nodiscard]] std::vector<std::string> checkpoint_differences(tensor_file const& file) {
  std::span<parameter_entry const> const table{parameter_table<C>};
  std::vector<std::string> out = detail::file_config_differences(C, file);
  for (std::string& line : detail::tensor_differences(table, file, detail::common_prefix(table, file)))
    out.push_back(std::move(line));
  return out;
}

}  // namespace dm2
