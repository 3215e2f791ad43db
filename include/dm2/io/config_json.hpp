/// @file
/// A model's configuration as JSON, and its comparison with a file's.
#pragma once

#include <dm2/model/config.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

struct config_field {
  char const* name;
  int config::*member;
};
/// Every field that is a plain number, under its name in a file.
inline constexpr std::array config_fields{config_field{"patch", &config::patch},
                                          config_field{"channels", &config::channels},
                                          config_field{"stem_width", &config::stem_width},
                                          config_field{"depth", &config::depth},
                                          config_field{"dim", &config::dim},
                                          config_field{"mlp_dim", &config::mlp_dim},
                                          config_field{"classes", &config::classes},
                                          config_field{"expand", &config::expand},
                                          config_field{"headdim", &config::headdim},
                                          config_field{"d_state", &config::d_state},
                                          config_field{"d_conv", &config::d_conv},
                                          config_field{"groups", &config::groups},
                                          config_field{"attn_heads", &config::attn_heads},
                                          config_field{"attn_head_dim", &config::attn_head_dim},
                                          config_field{"attn_rotary", &config::attn_rotary},
                                          config_field{"attn_d_conv", &config::attn_d_conv}};

inline std::vector<int> layer_numbers(layer_set set) {
  std::vector<int> out;
  for (int i = 0; i < 64; ++i)
    if (set.contains(i)) out.push_back(i);
  return out;
}

/// Whether two values of a field mean the same: numbers to 1e-6 (a float's worth of an epsilon), layers in any order.
inline bool same_value(nlohmann::json const& a, nlohmann::json const& b) {
  if (a.is_number() && b.is_number()) {
    double const x = a.get<double>(), y = b.get<double>();
    return std::abs(x - y) <= 1e-6 * std::max(std::abs(x), std::abs(y));
  }
  return a == b;
}

inline int config_int(nlohmann::json const& value, std::string const& field) {
  if (!value.is_number_integer() || value < nlohmann::json(-0x7FFFFFFF) || value > nlohmann::json(0x7FFFFFFF))
    throw std::invalid_argument{"config: " + field + " is " + value.dump() +
                                ", not a number of pixels, channels or layers"};
  return value.get<int>();
}

/// A pair [a, a] or a number as that number; anything else as it is.
inline nlohmann::json one_of_pair(nlohmann::json const& value) {
  return value.is_array() && value.size() == 2 && value[0] == value[1] ? value[0] : value;
}

}  // namespace detail

/// Every field in the order of its declaration: `image` as [height, width], `attn_layers` as a list, `variant` by name.
[[nodiscard]] inline nlohmann::ordered_json to_json(config const& c) {
  nlohmann::ordered_json out;
  out["image"] = {c.image.height, c.image.width};
  for (auto const& [name, member] : detail::config_fields) {
    if (std::string_view{name} == "attn_heads") out["attn_layers"] = detail::layer_numbers(c.attn_layers);
    out[name] = c.*member;
  }
  out["eps"] = c.eps;
  out["variant"] = c.variant == mixer_variant::published ? "published" : "bidirectional";
  return out;
}

/// The configuration that to_json wrote. Fields that are absent keep their defaults. Throws std::invalid_argument
/// naming a field that is unknown or of the wrong type; whether the numbers fit each other is not looked at.
[[nodiscard]] inline config config_from_json(nlohmann::json const& object) {
  if (!object.is_object()) throw std::invalid_argument{"config: not a JSON object"};
  config c;
  for (auto const& [name, value] : object.items()) {
    auto const field = std::find_if(detail::config_fields.begin(), detail::config_fields.end(),
                                    [&n = name](detail::config_field const& f) { return n == f.name; });
    auto const bad = [&n = name, &v = value] {
      throw std::invalid_argument{"config: " + n + " cannot be " + v.dump()};
    };
    if (field != detail::config_fields.end()) {
      c.*field->member = detail::config_int(value, name);
    } else if (name == "image") {
      if (!value.is_array() || value.size() != 2) bad();
      c.image = {detail::config_int(value[0], name), detail::config_int(value[1], name)};
    } else if (name == "attn_layers") {
      if (!value.is_array()) bad();
      c.attn_layers = {};
      for (auto const& layer : value) {
        int const i = detail::config_int(layer, name);
        if (i < 0 || i > 63) bad();
        c.attn_layers.bits |= std::uint64_t{1} << i;
      }
    } else if (name == "eps") {
      if (!value.is_number()) bad();
      c.eps = value.get<double>();
    } else if (name == "variant") {
      if (value != "published" && value != "bidirectional") bad();
      c.variant = value == "published" ? mixer_variant::published : mixer_variant::bidirectional;
    } else {
      throw std::invalid_argument{"config: no field is called " + name};
    }
  }
  return c;
}

/// The part of a configuration that a Lightning checkpoint's `hyper_parameters` state, under this library's names. What
/// they leave out, or give as None, is left out: the published class then used its own defaults.
[[nodiscard]] inline nlohmann::json config_of_hyper_parameters(nlohmann::json const& hyper) {
  using rename = std::pair<char const*, char const*>;
  nlohmann::json out = nlohmann::json::object();
  auto const take = [&out](nlohmann::json const& from, std::initializer_list<rename> names) {
    for (auto const& [theirs, ours] : names)
      if (from.is_object() && from.contains(theirs) && !from[theirs].is_null()) out[ours] = from[theirs];
  };
  auto const part = [&hyper](char const* name) {
    return hyper.is_object() ? hyper.value(name, nlohmann::json{}) : nlohmann::json{};
  };
  take(hyper, {{"img_size", "image"},
               {"patch_size", "patch"},
               {"channels", "channels"},
               {"depth", "depth"},
               {"d_model", "dim"},
               {"d_intermediate", "mlp_dim"},
               {"num_classes", "classes"},
               {"attn_layer_idx", "attn_layers"},
               {"norm_epsilon", "eps"}});
  take(part("ssm_cfg"), {{"expand", "expand"},
                         {"headdim", "headdim"},
                         {"d_state", "d_state"},
                         {"d_conv", "d_conv"},
                         {"ngroups", "groups"}});
  take(part("attn_cfg"), {{"num_heads", "attn_heads"},
                          {"head_dim", "attn_head_dim"},
                          {"rotary_emb_dim", "attn_rotary"},
                          {"d_conv", "attn_d_conv"}});
  if (out.contains("image") && out["image"].is_number()) out["image"] = {out["image"], out["image"]};
  if (out.contains("patch")) out["patch"] = detail::one_of_pair(out["patch"]);
  return out;
}

/// A line for each field of `file` that differs from the program's: "depth: 4 in the file, 24 in the program". The file
/// may have a part of the fields.
[[nodiscard]] inline std::vector<std::string> config_differences(config const& program, nlohmann::json const& file) {
  if (!file.is_object()) return {"the configuration in the file is not a JSON object"};
  std::vector<std::string> out;
  nlohmann::json const ours = to_json(program);
  for (auto const& [name, value] : file.items()) {
    nlohmann::json theirs = value;
    if (name == "attn_layers" && theirs.is_array()) std::sort(theirs.begin(), theirs.end());
    if (!ours.contains(name))
      out.push_back(name + ": " + value.dump() + " in the file, unknown to the program");
    else if (!detail::same_value(theirs, ours[name]))
      out.push_back(name + ": " + value.dump() + " in the file, " + ours[name].dump() + " in the program");
  }
  return out;
}

}  // namespace dm2
