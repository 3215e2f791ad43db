/// @file
/// The flags that tell a model: every field of the configuration, under dm2's names and timm's.
#pragma once

#include <dm2/io/config_json.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/run/told_model.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "command_line.hpp"
#include "model_file.hpp"
#include "rule_hint.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::example {

/// What was said of the model on the command line.
struct model_flags {
  std::string model;                                ///< `--model`: a preset or a file; empty where it was not given
  nlohmann::json given = nlohmann::json::object();  ///< the fields that flags gave, under their names in a file
};

namespace detail {

/// A field of the configuration as a flag.
struct field_flag {
  char const* field;  ///< under its name in a file
  char const* names;  ///< as CLI11 takes them, the first one for messages
  char const* text;   ///< for --help
};
inline constexpr std::array field_flags{
    field_flag{"image", "--img-size", "Pixels of the picture a side: 384, or height and width, 384x320"},
    field_flag{"patch", "--patch,--patch-size", "Pixels of a patch a side, even"},
    field_flag{"channels", "--in-chans", "Channels of the picture; the programs read 3"},
    field_flag{"stem_width", "--stem-width", "Channels of the stem's convolutions"},
    field_flag{"depth", "--depth", "Layers, 1 to 64"},
    field_flag{"dim", "--dim,--embed-dim", "Channels of a layer"},
    field_flag{"mlp_dim", "--mlp-dim", "Hidden channels of the gated MLP after each mixer; 0: none"},
    field_flag{"classes", "--num-classes", "Classes; left out, as many as the data has"},
    field_flag{"expand", "--expand", "Channels inside the mixer over those of a layer"},
    field_flag{"headdim", "--headdim", "Channels of a mixer's head; has to divide expand * dim"},
    field_flag{"d_state", "--d-state", "Size of the mixer's state"},
    field_flag{"d_conv", "--d-conv", "Taps of the mixer's convolution"},
    field_flag{"groups", "--groups", "Groups of heads that share B and C"},
    field_flag{"attn_layers", "--attn-layers", "Layers that are attention, counted from 0, as 4,8; or none"},
    field_flag{"attn_heads", "--attn-heads", "Heads of an attention layer"},
    field_flag{"attn_head_dim", "--attn-head-dim", "Channels of an attention head"},
    field_flag{"attn_rotary", "--attn-rotary", "Channels of a head that turn with the position, even; 0: none"},
    field_flag{"attn_d_conv", "--attn-d-conv", "Taps of the attention's convolution; 0: none"},
    field_flag{"eps", "--eps", "Epsilon of the norms"},
    field_flag{"variant", "--variant", "The mixer's second direction: published, or bidirectional"}};

/// "--dim" for dim.
[[nodiscard]] inline std::string flag_of(std::string_view field) {
  for (field_flag const& f : field_flags) {
    std::string_view const names = f.names;
    if (field == f.field) return std::string{names.substr(0, names.find(','))};
  }
  return {};
}
/// "--img-size 384x320": the flag with a field's value.
[[nodiscard]] inline std::string flag_text(std::string const& field, nlohmann::json const& value) {
  std::string text;
  if (field == "image")
    text = value[0] == value[1] ? value[0].dump() : value[0].dump() + "x" + value[1].dump();
  else if (field == "attn_layers" && !value.empty())
    for (nlohmann::json const& one : value) text += (text.empty() ? "" : ",") + one.dump();
  else
    text = dm2::detail::field_text(field, value);
  return flag_of(field) + " " + text;
}

/// "384" as [384, 384], "384x320" as [384, 320]. Throws CLI::ValidationError.
[[nodiscard]] inline nlohmann::json image_value(std::string const& word) {
  std::size_t const cross = std::min(word.find_first_of("xX"), word.size());
  auto const height = whole_int(std::string_view{word}.substr(0, cross));
  auto const width = cross == word.size() ? height : whole_int(std::string_view{word}.substr(cross + 1));
  if (!height || !width)
    throw CLI::ValidationError{"--img-size", word + " is neither pixels a side, as 384, nor HEIGHTxWIDTH, as 384x320"};
  return {*height, *width};
}
/// "4,8" as [4, 8], "none" as []. Throws CLI::ValidationError.
[[nodiscard]] inline nlohmann::json layers_value(std::string const& word) {
  nlohmann::json out = nlohmann::json::array();
  if (word == "none") return out;
  for (std::string_view rest = word;;) {
    std::size_t const end = std::min(rest.find(','), rest.size());
    auto const layer = whole_int(rest.substr(0, end));
    if (!layer || *layer < 0 || *layer > 63)
      throw CLI::ValidationError{"--attn-layers", word + " is no list of layers from 0 to 63, as 4,8, nor none"};
    if (std::find(out.begin(), out.end(), *layer) == out.end()) out.push_back(*layer);
    if (end == rest.size()) break;
    rest.remove_prefix(end + 1);
  }
  std::sort(out.begin(), out.end());
  return out;
}
[[nodiscard]] inline nlohmann::json field_value(std::string const& field, std::string const& word) {
  if (field == "image") return image_value(word);
  if (field == "attn_layers") return layers_value(word);
  if (field == "variant") return word;  // which ones there are, the option knows
  if (field == "eps") {
    double value = 0;
    if (!CLI::detail::lexical_cast(word, value) || !std::isfinite(value))
      throw CLI::ValidationError{"--eps", word + " is no number"};
    return value;
  }
  auto const value = whole_int(word);
  if (!value) throw CLI::ValidationError{flag_of(field), word + " is no whole number up to 2147483647"};
  return *value;
}
[[nodiscard]] inline char const* type_of(std::string_view field) {
  return field == "image" ? "N|HxW" : field == "attn_layers" ? "LIST|none" : field == "eps" ? "NUMBER" : "N";
}

}  // namespace detail

/// Adds `--model` and a flag for each field of the configuration, in the group "Model". `f` holds what was given once
/// the command line was parsed, and has to live as long as `app`.
inline void add_model_flags(CLI::App& app, model_flags& f) {
  app.add_option("-m,--model", f.model, joined(preset_names()) + ", or a file of a model's fields, TOML or JSON")
      ->type_name("NAME|FILE")
      ->default_str("")
      ->group("Model");
  for (detail::field_flag const& flag : detail::field_flags) {
    std::string const field = flag.field;
    // a list in a file of flags, as [384, 320], comes as several words: CLI11 joins them by ends of lines
    bool const list = field == "image" || field == "attn_layers";
    auto const set = [&f, field](std::string word) {
      std::replace(word.begin(), word.end(), '\n', field == "image" ? 'x' : ',');
      f.given[field] = detail::field_value(field, word);
    };
    CLI::Option* const option =
        app.add_option_function<std::string>(flag.names, set, flag.text)
            ->type_name(detail::type_of(field))
            ->default_str("")
            ->multi_option_policy(list ? CLI::MultiOptionPolicy::Join : CLI::MultiOptionPolicy::TakeLast)
            ->group("Model");
    if (field == "variant")
      option->type_name("NAME")->check(CLI::IsMember({"published", "bidirectional"}).description(""));
  }
}

/// Whether anything was said.
[[nodiscard]] inline bool given(model_flags const& f) { return !f.model.empty() || !f.given.empty(); }

/// Whether a flag of that name, without the dashes, is one of those that tell a model.
[[nodiscard]] inline bool is_model_flag(std::string_view name) {
  return name == "model" ||
         std::any_of(detail::field_flags.begin(), detail::field_flags.end(), [name](detail::field_flag const& flag) {
           std::string_view const names = flag.names;
           return names.substr(2, names.find(',') - 2) == name;
         });
}

/// The fields that flags and a model's file say: what config_of(file, said) takes where weights do not tell them.
/// Throws as find_named_model.
[[nodiscard]] inline nlohmann::json said_fields(model_flags const& f) {
  nlohmann::json out = f.model.empty() ? nlohmann::json::object() : find_named_model(f.model).given;
  out.update(f.given);
  return out;
}

namespace detail {

/// Throws usage_error where flags, or the fields of a model's file, or a preset say otherwise than the checkpoint. A
/// preset's picture and classes are what people change, and may differ.
inline void refuse_contradiction(model_flags const& f, named_model const& named, told_model const& checkpoint) {
  nlohmann::json const theirs = to_json(checkpoint.configuration), preset = to_json(named.base);
  for (std::string const& field : field_names()) {
    bool const flag = f.given.contains(field), listed = named.given.contains(field);
    bool const adapted = field == "image" || field == "classes";
    if (!flag && !listed && (f.model.empty() || adapted)) continue;
    nlohmann::json const& ours = flag ? f.given[field] : listed ? named.given[field] : preset[field];
    if (dm2::detail::same_value(ours, theirs[field])) continue;
    std::string const who =
        flag ? flag_text(field, ours) : named.source + " (" + field + " " + dm2::detail::field_text(field, ours) + ")";
    throw usage_error{who + " contradicts " + checkpoint.source + ", whose model has " + field + " " +
                      dm2::detail::field_text(field, theirs[field])};
  }
}

/// The message for a configuration that breaks a rule: the rule, the flags that it is about, what else it is about, and
/// what would fit.
[[nodiscard]] inline std::string broken_text(config_rule const& rule, config const& c, model_flags const& f,
                                             named_model const& named) {
  nlohmann::json const values = to_json(c);
  std::string flags, others;
  std::size_t count = 0;
  for (std::string const& field : field_names()) {
    if (!rule.is_about(field)) continue;
    ++count;
    if (f.given.contains(field))
      flags += (flags.empty() ? "" : ", ") + flag_text(field, f.given[field]);
    else
      others += (others.empty() ? "" : ", ") + field + " " + dm2::detail::field_text(field, values[field]);
  }
  if (count > 4 && !flags.empty()) others.clear();  // a rule of sizes, of which some are large
  std::string text{rule.sentence};
  text += flags.empty() ? "" : ": " + flags;
  if (!others.empty()) text += (flags.empty() ? ": " : ", with ") + others + " of " + named.source;
  std::string const hint = rule_hint(rule, c, named.base.depth);
  return hint.empty() ? text : text + "; " + hint;
}

/// Throws as settle, for a model that flags have told over a named one.
inline void require_usable(told_model const& told, model_flags const& f, named_model const& named) {
  config const& c = told.configuration;
  if (config_rule const* const rule = broken_rule(c)) {
    std::string const text = detail::broken_text(*rule, c, f, named);
    if (f.given.empty() && !named.given.empty()) throw file_error{f.model, text};
    throw usage_error{text};
  }
  if (c.channels != 3)
    throw usage_error{"the programs read pictures of 3 channels, and the model of " + told.source + " takes " +
                      std::to_string(c.channels) + ": use the library for it"};
}

}  // namespace detail

/// The model that a run is of: a checkpoint's, else that of `--model` (tiny where it is not given) with the flags laid
/// over it, and as many classes as the data has where neither a flag nor the model's file says how many.
///
/// Throws usage_error where a flag contradicts the checkpoint, naming both; where the configuration breaks a rule, with
/// the rule's own sentence, the flags that it is about and what would fit; where the model takes pictures of other than
/// 3 channels. Throws as find_named_model for `--model`.
[[nodiscard]] inline told_model settle(model_flags const& f, std::optional<told_model> const& from_checkpoint,
                                       std::optional<int> classes_of_data) {
  named_model named = find_named_model(f.model.empty() ? "tiny" : f.model);
  told_model out;
  if (from_checkpoint) {
    detail::refuse_contradiction(f, named, *from_checkpoint);
    out = *from_checkpoint;
    named.source = out.source;
  } else {
    nlohmann::json fields = to_json(named.base);
    fields.update(named.given);
    fields.update(f.given);
    bool const said = f.given.contains("classes") || named.given.contains("classes");
    if (!said && classes_of_data) fields["classes"] = *classes_of_data;
    out.configuration = config_from_json(fields);
    out.name = name_of(out.configuration);
    out.source = named.source;
  }
  detail::require_usable(out, f, named);
  return out;
}

/// The model of weights to start from, with the flags laid over it, and as many classes as the data has where no flag
/// says how many. Throws as settle.
[[nodiscard]] inline told_model settle_over(model_flags const& f, told_model const& weights, int classes_of_data) {
  nlohmann::json fields = to_json(weights.configuration);
  fields["classes"] = classes_of_data;
  fields.update(f.given);
  told_model out = weights;
  out.configuration = config_from_json(fields);
  out.name = name_of(out.configuration);
  detail::require_usable(out, f, {weights.configuration, {}, weights.source});
  return out;
}

}  // namespace dm2::example
