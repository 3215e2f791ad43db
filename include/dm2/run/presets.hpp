/// @file
/// Models with names, and the names of configurations in messages.
#pragma once

#include <dm2/io/config_json.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/presets.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {
/// A configuration that has a name.
struct preset {
  std::string_view name;  ///< as `--model` takes it
  config configuration;   ///< its fields
};

/// All of them. What fits several is called by the first.
inline constexpr std::array known_presets{preset{"tiny", tiny}, preset{"small", published_small},
                                          preset{"quick", presets::quick}, preset{"micro", presets::micro}};

/// The preset of that name, null where there is none. The result points to a constant.
[[nodiscard]] constexpr preset const* find_preset(std::string_view name) {
  for (preset const& p : known_presets)
    if (p.name == name) return &p;
  return nullptr;
}

/// The presets' names in their order: "tiny", "small", "quick", "micro".
[[nodiscard]] inline std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  names.reserve(known_presets.size());
  for (preset const& p : known_presets) names.emplace_back(p.name);
  return names;
}

/// "tiny: pictures of 224 x 224, 24 layers of 192 channels, 1000 classes"
[[nodiscard]] inline std::string describe(std::string_view name, config const& c) {
  return std::string{name} + ": pictures of " + std::to_string(c.image.height) + " x " + std::to_string(c.image.width) +
         ", " + std::to_string(c.depth) + (c.depth == 1 ? " layer of " : " layers of ") + std::to_string(c.dim) +
         " channels, " + std::to_string(c.classes) + (c.classes == 1 ? " class" : " classes");
}

namespace detail {

/// A field's value as people write it: "384 x 384", "4, 8", "none", "published", "37".
[[nodiscard]] inline std::string field_text(std::string_view field, nlohmann::json const& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  if (value.empty()) return "none";
  std::string out;
  for (nlohmann::json const& one : value) out += (out.empty() ? "" : field == "image" ? " x " : ", ") + one.dump();
  return out;
}

/// The names of the fields of `known` that a configuration has otherwise, in the order of their declaration.
[[nodiscard]] inline std::vector<std::string> differing_fields(config const& c, nlohmann::json const& known) {
  std::vector<std::string> out;
  nlohmann::ordered_json const ours = to_json(c);
  for (auto const& [field, value] : ours.items())
    if (known.contains(field) && !same_value(known[field], nlohmann::json(value))) out.push_back(field);
  return out;
}

/// The preset in which the fewest fields differ from the known ones; of several the first.
[[nodiscard]] inline preset const& nearest_preset(nlohmann::json const& known) {
  preset const* nearest = nullptr;
  std::size_t fewest = 0;
  for (preset const& p : known_presets)
    if (std::size_t const count = differing_fields(p.configuration, known).size();
        nearest == nullptr || count < fewest) {
      nearest = &p;
      fewest = count;
    }
  return *nearest;
}

}  // namespace detail

/// What a configuration is called: "tiny", or after the preset that the fewest fields tell it from, and those fields:
/// "tiny with image 384 x 384, classes 37".
[[nodiscard]] inline std::string name_of(config const& c) {
  nlohmann::json const fields = to_json(c);
  preset const& base = detail::nearest_preset(fields);
  std::string out{base.name};
  bool first = true;
  for (std::string const& field : detail::differing_fields(base.configuration, fields)) {
    out += (first ? " with " : ", ") + field + " " + detail::field_text(field, fields[field]);
    first = false;
  }
  return out;
}

}  // namespace dm2
