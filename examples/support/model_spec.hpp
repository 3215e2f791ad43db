/// @file
/// A model told in one word: "tiny", "tiny:classes=37,image=384x320", "mine.toml".
#pragma once

#include <dm2/run/told_model.hpp>

#include <CLI/CLI.hpp>

#include "command_line.hpp"
#include "model_flags.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::example {
namespace detail {

/// The words of a command line that mean the same. A list's numbers have + between them, since commas are taken.
[[nodiscard]] inline std::vector<std::string> words_of_spec(std::string const& spec) {
  std::size_t const colon = spec.find(':');
  std::vector<std::string> words{"--model", spec.substr(0, colon)};
  if (colon == spec.npos) return words;
  std::string_view rest = std::string_view{spec}.substr(colon + 1);
  while (!rest.empty()) {
    std::string_view const part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    std::size_t const equals = part.find('=');
    std::string const field{part.substr(0, equals)};
    if (equals == part.npos || flag_of(field).empty())
      throw usage_error{spec + ": '" + std::string{part} + "' is not FIELD=VALUE of a configuration's field"};
    std::string value{part.substr(equals + 1)};
    std::replace(value.begin(), value.end(), '+', ',');
    words.insert(words.end(), {flag_of(field), value});
  }
  return words;
}

}  // namespace detail

/// The model that a word tells. Throws usage_error where it tells none, or one that breaks a rule.
[[nodiscard]] inline told_model model_of_spec(std::string const& spec) {
  CLI::App app;
  model_flags flags;
  add_model_flags(app, flags);
  std::vector<std::string> words = detail::words_of_spec(spec);
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  try {
    app.parse(words);
  } catch (CLI::Error const& problem) {
    throw usage_error{spec + ": " + problem.what()};
  }
  return settle(flags, std::nullopt, std::nullopt);
}

}  // namespace dm2::example
