/// @file
/// The configuration that a file tells, as far as it is understood.
#pragma once

#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::detail {

/// Whether a value is of the type that a field of the configuration has: a number, a list of numbers, or a variant.
[[nodiscard]] inline bool is_field_value(std::string_view name, nlohmann::json const& value) {
  if (name == "variant") return value.is_string();
  if (name != "image" && name != "attn_layers") return value.is_number();
  return value.is_array() && (name != "image" || value.size() == 2) &&
         std::all_of(value.begin(), value.end(), [](nlohmann::json const& v) { return v.is_number(); });
}

/// Whether a JSON text under the key "config" is a configuration of dm2's: any program may write a key of that name.
/// One of a later version has fields that this one does not know, and is one where it has the names of three that all
/// have had.
[[nodiscard]] inline bool is_own_config(nlohmann::json const& text) {
  if (!text.is_object()) return false;
  nlohmann::json const known = to_json(config{});
  bool all = true;
  for (auto const& [name, value] : text.items()) {
    bool const field = known.contains(name);
    if (field && !is_field_value(name, value)) return false;
    all = all && field;
  }
  return all || (text.contains("depth") && text.contains("dim") && text.contains("variant"));
}

/// The fields of a file's configuration, under this library's names; an empty object where it tells none. What is
/// there and cannot be understood is a line of `notices`.
[[nodiscard]] inline nlohmann::json told_config(tensor_file const& file, std::vector<std::string>& notices) {
  nlohmann::json told = nlohmann::json::object();
  nlohmann::json const hyper = config_of_hyper_parameters(file.hyper_parameters());
  for (auto const& [name, value] : hyper.items())
    if (is_field_value(name, value))
      told[name] = value;
    else
      notices.push_back("hyper_parameters: " + name + " is " +
                        value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 100) +
                        ", which cannot be compared");
  auto const found = file.metadata().find("config");
  if (found == file.metadata().end()) return told;
  auto const parsed = parse_json(found->second);
  if (is_own_config(parsed))
    told.update(parsed);
  else
    notices.push_back("metadata 'config' is not a configuration of dm2's, and is not compared");
  return told;
}

}  // namespace dm2::detail
