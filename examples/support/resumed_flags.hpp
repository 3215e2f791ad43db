/// @file
/// The flags of a run that goes on: those that are given, and for the rest those of its checkpoint.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/json_text.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "text.hpp"
#include "training_flags.hpp"
#include "training_folder.hpp"

#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {
namespace detail {

/// A stored flag as the words of a command line. Throws file_error where it is none that a checkpoint stores.
[[nodiscard]] inline std::vector<std::string> words_of(nlohmann::ordered_json const& value, std::string const& name,
                                                       std::filesystem::path const& file) {
  auto const word = [&](nlohmann::ordered_json const& one) {
    if (one.is_string()) return one.get<std::string>();
    if (!one.is_number() && !one.is_boolean()) throw file_error{file, "its flag '" + name + "' is damaged"};
    return one.dump();
  };
  std::vector<std::string> out;
  if (!value.is_array()) return {word(value)};
  for (auto const& one : value) out.push_back(word(one));
  return out;
}

/// A stored flag for people: "3e-3", "0.9 0.99", "none".
[[nodiscard]] inline std::string flag_text(nlohmann::ordered_json const& value) {
  if (value.is_string() && value.get<std::string>().empty()) return "none";
  if (value.is_string()) return printable(value.get<std::string>());
  if (!value.is_array()) return value.dump();
  std::string out;
  for (auto const& one : value) out += (out.empty() ? "" : " ") + flag_text(one);
  return out;
}

/// Gives an option the stored words, as if they had been typed.
inline void give(CLI::Option& option, std::vector<std::string> const& words, std::filesystem::path const& file) {
  try {
    for (std::string const& word : words) option.add_result(word);
    option.run_callback();
  } catch (CLI::Error const& problem) {
    throw file_error{file, "its flags are none of this program's: " + std::string{problem.what()}};
  }
}

/// The object under "arguments"; empty where a checkpoint has none, because another program wrote it.
[[nodiscard]] inline nlohmann::ordered_json stored_arguments(resume_point const& from) {
  auto const text = from.head.metadata.find("arguments");
  if (text == from.head.metadata.end()) return nlohmann::ordered_json::object();
  auto parsed = dm2::detail::parse_json<nlohmann::ordered_json>(text->second);
  if (!parsed.is_object()) throw file_error{from.file, "its metadata 'arguments' are no JSON object"};
  return parsed;
}

}  // namespace detail

/// Names the weights that a run was begun with: history, once it goes on.
inline constexpr char const* initial_flag = "initial-checkpoint";

/// What became of a checkpoint's flags.
struct resumed_flags {
  nlohmann::ordered_json stored;   ///< of the checkpoint
  std::vector<std::string> kept;   ///< "lr 0.003": not given, and not the default
  std::vector<std::string> lines;  ///< "lr: 0.003 before, 1e-05 now", and "token-label-data: d/labels before, none now"
};

/// Takes a checkpoint's flags over into those of the command line that are not given there. Throws file_error where
/// they are damaged.
[[nodiscard]] inline resumed_flags take_stored_flags(CLI::App& app, resume_point const& from) {
  resumed_flags out{detail::stored_arguments(from), {}, {}};
  for (CLI::Option* option : app.get_options()) {
    if (!is_recipe(*option) || option->count() > 0) continue;
    std::string const name = option->get_lnames().front();
    auto const stored = out.stored.find(name);
    if (name == initial_flag || stored == out.stored.end() || *stored == detail::value_json(*option)) continue;
    detail::give(*option, detail::words_of(*stored, name, from.file), from.file);
    out.kept.push_back(name + " " + detail::flag_text(*stored));
  }
  return out;
}

/// The lines for the flags with which a run goes on otherwise than it was begun. `now` gets the weights that it was
/// begun with.
inline void compare_flags(resumed_flags& resumed, nlohmann::ordered_json& now) {
  if (resumed.stored.contains(initial_flag)) now[initial_flag] = resumed.stored[initial_flag];
  for (auto const& [name, value] : now.items()) {
    auto const before = resumed.stored.find(name);
    if (before != resumed.stored.end() && *before != value)
      resumed.lines.push_back(name + ": " + detail::flag_text(*before) + " before, " + detail::flag_text(value) +
                              " now");
  }
}

/// Says both on stdout.
inline void print_resumed_flags(resumed_flags const& resumed) {
  if (!resumed.kept.empty()) std::cout << "kept       " << joined(resumed.kept) << '\n';
  for (std::string const& line : resumed.lines) std::cout << "changed    " << line << '\n';
}

}  // namespace dm2::example
