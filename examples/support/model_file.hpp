/// @file
/// A model written down in a TOML or JSON file: a preset and the fields that differ.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/run/presets.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "command_line.hpp"

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2::example {

/// What `--model` means: a preset, and the fields that a file gives over it, under their names in config_json.hpp.
struct named_model {
  config base;                                      ///< the preset's configuration
  nlohmann::json given = nlohmann::json::object();  ///< fields of the file; none where --model is a preset's name
  std::string source;                               ///< "--model tiny", or the file's name
};

namespace detail {

/// The names of a configuration's fields.
[[nodiscard]] inline std::vector<std::string> field_names() {
  std::vector<std::string> names;
  nlohmann::ordered_json const fields = to_json(config{});
  for (auto const& item : fields.items()) names.push_back(item.key());
  return names;
}

/// A value of a TOML file as JSON: numbers as numbers, other words as text.
[[nodiscard]] inline nlohmann::json toml_word(std::string const& word) {
  auto const parsed = dm2::detail::parse_json(word);
  return parsed.is_number() || parsed.is_boolean() ? parsed : nlohmann::json(word);
}

/// Whether a TOML text ends inside a list or a quoted word, as a file does that was cut off; CLI11 would take what is
/// there.
[[nodiscard]] inline bool ends_inside(std::string_view text) {
  int lists = 0;
  char quote = 0;
  bool comment = false;
  for (char const c : text) {
    if (c == '\n') comment = false;
    if (comment) continue;
    if (quote != 0)
      quote = c == quote ? char{0} : quote;
    else if (c == '"' || c == '\'')
      quote = c;
    else if (c == '#')
      comment = true;
    else
      lists += c == '[' ? 1 : c == ']' ? -1 : 0;
  }
  return lists != 0 || quote != 0;
}

/// Throws file_error for words that are not UTF-8. CLI11 cuts a line that goes on behind a quoted word between two
/// bytes, which can be those of one character.
inline void check_words(std::filesystem::path const& path, CLI::ConfigItem const& item) {
  bool whole = dm2::detail::is_utf8(item.name);
  for (std::string const& word : item.parents) whole = whole && dm2::detail::is_utf8(word);
  for (std::string const& word : item.inputs) whole = whole && dm2::detail::is_utf8(word);
  if (!whole) throw file_error{path, "is no TOML: a word is cut inside a character, as behind a quoted word"};
}

/// A TOML file as a JSON object, by CLI11's parser. Throws file_error for tables and for a field that is there twice.
[[nodiscard]] inline nlohmann::json toml_fields(std::filesystem::path const& path, std::string const& text) {
  if (ends_inside(text)) throw file_error{path, "ends inside a list or a quoted word"};
  nlohmann::json out = nlohmann::json::object();
  std::istringstream stream{text};
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML{}.from_config(stream);
  } catch (CLI::Error const& problem) {
    throw file_error{path, std::string{"is no TOML: "} + problem.what()};
  }
  for (CLI::ConfigItem const& item : items) {
    check_words(path, item);
    if (!item.parents.empty())
      throw file_error{path, "has a table [" + item.parents.front() + "]: a model's fields stand by themselves"};
    if (out.contains(item.name)) throw file_error{path, "has the field '" + item.name + "' twice"};
    bool const list = item.name == "attn_layers" || item.inputs.size() != 1;
    if (!list) {
      out[item.name] = toml_word(item.inputs.front());
      continue;
    }
    nlohmann::json values = nlohmann::json::array();
    for (std::string const& word : item.inputs)
      if (!word.empty() && word != "none") values.push_back(toml_word(word));
    out[item.name] = values;
  }
  return out;
}

/// The whole of a small text file. Throws file_error where it cannot be read, or is over 1 MiB.
[[nodiscard]] inline std::string small_text(std::filesystem::path const& path) {
  constexpr std::size_t most = std::size_t{1} << 20;
  errno = 0;
  std::ifstream in{path, std::ios::binary};
  if (!in) throw file_error{path, "cannot be opened: " + std::generic_category().message(errno)};
  std::string text(most + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  if (in.bad() || (!in.eof() && !in)) throw file_error{path, "cannot be read"};
  text.resize(std::size_t(in.gcount()));
  if (text.size() > most) throw file_error{path, "is over 1 MiB, which no description of a model is"};
  return text;
}

/// The fields of a model's file with this text, `base` among them.
[[nodiscard]] inline nlohmann::json fields_of_text(std::filesystem::path const& path, std::string const& text) {
  if (!dm2::detail::is_utf8(text)) throw file_error{path, "is not UTF-8 text"};  // messages quote it as JSON does
  if (path.extension() != ".json") return toml_fields(path, text);
  nlohmann::json parsed = dm2::detail::parse_json(text);
  if (!parsed.is_object()) throw file_error{path, "is not a JSON object of a model's fields"};
  return parsed;
}

}  // namespace detail

/// What a model's file with this text says: TOML, or JSON where its name ends in .json. The fields are a checkpoint's
/// (`image`, `patch`, `depth` ...; one number for `image` is a square); `base` is the preset that the others come from,
/// tiny where it is left out.
///
/// Throws file_error that names the file and the field: one that no model has, with the nearest name; a value of
/// another type; a base that there is not. Whether the sizes fit each other is not looked at.
[[nodiscard]] inline named_model model_of_text(std::filesystem::path const& path, std::string const& text) {
  named_model out{tiny, detail::fields_of_text(path, text), path.string()};
  if (auto const base = out.given.find("base"); base != out.given.end()) {
    preset const* const known = base->is_string() ? find_preset(base->get<std::string>()) : nullptr;
    if (known == nullptr) throw file_error{path, "base " + base->dump() + " is none of " + joined(preset_names())};
    out.base = known->configuration;
    out.given.erase(base);
  }
  std::vector<std::string> const names = detail::field_names();
  for (auto& [field, value] : out.given.items()) {
    if (std::find(names.begin(), names.end(), field) == names.end())
      throw file_error{
          path, "has a field '" + field + "', which no model has; the nearest is '" + nearest_name(field, names) + "'"};
    if (field == "image" && value.is_number()) value = {value, value};
  }
  try {
    (void)config_from_json(out.given);
  } catch (std::invalid_argument const& problem) {
    throw file_error{path, problem.what()};
  }
  return out;
}

/// Reads a model's file, as model_of_text does. Throws file_error where it cannot be read, or is over 1 MiB.
[[nodiscard]] inline named_model read_model_file(std::filesystem::path const& path) {
  return model_of_text(path, detail::small_text(path));
}

/// The model that `--model WORD` means. Throws usage_error where it is neither a preset's name nor a .toml or .json
/// file, and as read_model_file.
[[nodiscard]] inline named_model find_named_model(std::string const& word) {
  if (preset const* const known = find_preset(word))
    return {known->configuration, nlohmann::json::object(), "--model " + word};
  std::filesystem::path const path{word};
  if (path.extension() == ".toml" || path.extension() == ".json") return read_model_file(path);
  throw usage_error{"--model " + word + " is none of " + joined(preset_names()) +
                    ", nor a file that ends in .toml or .json; the nearest is " + nearest_name(word, preset_names())};
}

}  // namespace dm2::example
