/// @file
/// Class names in a model file's metadata.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include <span>
#include <string>
#include <vector>

namespace dm2 {

/// The metadata key of the class names: a JSON array, the class number being the place in it.
inline constexpr char const* class_names_key = "class_names";

/// The names as that key's value. Throws nlohmann::json::type_error where one is not UTF-8.
[[nodiscard]] inline std::string class_names_text(std::span<std::string const> names) {
  return nlohmann::json(std::vector<std::string>(names.begin(), names.end())).dump();
}

/// The class names that a model file holds, in the order of their numbers; empty where it holds none. Throws file_error
/// where they are not an array of strings.
[[nodiscard]] inline std::vector<std::string> read_class_names(tensor_file const& file) {
  auto const found = file.metadata().find(class_names_key);
  if (found == file.metadata().end()) return {};
  auto const names = detail::parse_json(found->second);
  bool ok = names.is_array();
  for (auto const& name : names) ok = ok && name.is_string();
  if (!ok) throw file_error{file.path(), "metadata 'class_names' is not a JSON array of strings"};
  return names.get<std::vector<std::string>>();
}

}  // namespace dm2
