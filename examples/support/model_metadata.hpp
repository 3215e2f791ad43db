/// @file
/// The metadata of a converted file: what the original says of its model, and class names.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/class_list.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/told_config.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/presets.hpp>

#include <nlohmann/json.hpp>

#include "model_flags.hpp"
#include "models.hpp"

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dm2::example {

/// A configuration, every field. Throws file_error where the file is not that model.
[[nodiscard]] inline nlohmann::ordered_json checked_configuration(tensor_file const& file, config const& c) {
  model_table const table{c};
  auto const fit = dm2::detail::fit_model(c, table.entries(), file);
  if (!fit.differences.empty())
    throw file_error{file.path(), "is not the model " + describe(name_of(c), c) + ": it " +
                                      dm2::detail::misfit_text(table.entries(), file, fit.match, fit.differences)};
  return to_json(c);
}

/// What the file tells of its model: the whole configuration where it is one, else the fields that its hyper-parameters
/// name; nothing where they name none.
[[nodiscard]] inline std::optional<nlohmann::ordered_json> told_configuration(tensor_file const& file) {
  try {
    return to_json(config_of(file).configuration);
  } catch (file_error const&) {  // any tensors are converted
  }
  std::vector<std::string> notices;
  nlohmann::json const told = dm2::detail::told_config(file, notices);
  if (told.empty()) return std::nullopt;
  return nlohmann::ordered_json(told);
}

/// How many classes the metadata's configuration says, or the head's bias has; nothing where neither does.
[[nodiscard]] inline std::optional<std::size_t> class_count(tensor_file const& file,
                                                            std::map<std::string, std::string> const& metadata) {
  if (auto const found = metadata.find("config"); found != metadata.end()) {
    auto const parsed = dm2::detail::parse_json(found->second);
    if (parsed.is_object() && parsed.contains("classes") && parsed["classes"].is_number_unsigned())
      return parsed["classes"].get<std::size_t>();
  }
  for (stored_tensor const& t : file.tensors())
    if (t.shape.size() == 1 && (t.name == "head.bias" || t.name.ends_with(".head.bias"))) return t.size();
  return std::nullopt;
}

/// The metadata for a copy of the file: its own, its hyper-parameters, the configuration (the one that the flags tell,
/// or as far as the file tells it), and the class names in the file `names`, where one is given.
///
/// Throws file_error where the file is not the model that the flags tell, or there are not as many names as classes.
[[nodiscard]] inline std::map<std::string, std::string> metadata_to_write(tensor_file const& file,
                                                                          model_flags const& model,
                                                                          std::filesystem::path const& names) {
  std::map<std::string, std::string> out = file.metadata();
  if (file.is_training_checkpoint()) out.erase(training_key);  // one set of weights, and nothing to go on with
  out.emplace("format", "pt");                                 // Python's packages refuse a file without it
  if (!file.hyper_parameters().is_null()) out["hyper_parameters"] = file.hyper_parameters().dump();
  if (given(model))
    out["config"] = checked_configuration(file, choose_model("convert", file, model)).dump();
  else if (auto const told = told_configuration(file); told && !out.contains("config"))
    out["config"] = told->dump();
  if (names.empty()) return out;
  auto const classes = class_count(file, out);
  out[class_names_key] = class_names_text(classes ? read_class_list(names, *classes) : read_class_list(names));
  return out;
}

}  // namespace dm2::example
