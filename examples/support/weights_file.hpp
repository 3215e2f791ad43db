/// @file
/// The weights that a program is given: which set of them, what is odd about the file, whether they are numbers at all.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/checksums.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model_table.hpp>

#include <CLI/CLI.hpp>

#include "text.hpp"

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::example {

/// --ema and --raw.
struct weights_flags {
  bool ema = false, raw = false;

  [[nodiscard]] weights chosen() const { return ema ? weights::ema : raw ? weights::raw : weights::automatic; }
};

inline void add_weights_flags(CLI::App& app, weights_flags& f) {
  auto* const ema =
      app.add_flag("--ema", f.ema, "Take a checkpoint's averaged weights (the default where it has them)");
  app.add_flag("--raw", f.raw, "Take a checkpoint's weights as they were last trained")->excludes(ema);
}

/// Says on stderr what of a file was left out or not understood: ten lines of it, and how many more there are.
inline void print_notices(std::string_view program, tensor_file const& file, std::span<std::string const> lines) {
  constexpr std::size_t most = 10;
  for (std::string const& line : lines.first(std::min(most, lines.size())))
    std::cerr << program << ": note: " << printable(file.path().string() + ": " + line) << '\n';
  if (lines.size() > most) std::cerr << program << ": note: ... and " << lines.size() - most << " more\n";
}

/// The class names in the model's file; none where it has none. What it calls so and cannot be this model's is noted
/// and left out: the classes' numbers are right without it.
[[nodiscard]] inline std::vector<std::string> names_in_file(std::string_view program, tensor_file const& file,
                                                            std::size_t classes) {
  std::string note = "metadata 'class_names' is not a JSON array of strings, and left out";
  try {
    std::vector<std::string> names = read_class_names(file);
    if (names.empty() || names.size() == classes) return names;
    note = "holds " + std::to_string(names.size()) + (names.size() == 1 ? " class name" : " class names") +
           ", the model has " + std::to_string(classes) + (classes == 1 ? " class" : " classes") + ": left out";
  } catch (file_error const&) {  // the note says it
  }
  print_notices(program, file, std::span{&note, 1});
  return {};
}

/// A line for each tensor of the file that has numbers which are not finite.
[[nodiscard]] inline std::vector<std::string> not_finite_lines(std::span<stored_tensor const> tensors) {
  std::vector<std::string> out;
  for (stored_tensor const& t : tensors)
    if (std::string line = not_finite_text(t); !line.empty()) out.push_back(std::move(line));
  return out;
}

/// The file's notices and those of its being a model of configuration c.
///
/// Throws file_error where a tensor is not what its checksum is of, or that names the tensors which the model reads and
/// that are not finite: nothing that it says would mean anything.
[[nodiscard]] inline std::vector<std::string> sound_weights_notices(config const& c, tensor_file const& file) {
  std::vector<std::string> notices{file.notices().begin(), file.notices().end()};
  model_table const model{c};
  std::span<parameter_entry const> const table = model.entries();
  dm2::detail::model_fit const fit = dm2::detail::fit_model(c, table, file);
  if (!fit.differences.empty()) return notices;  // load says them
  notices.insert(notices.end(), fit.notices.begin(), fit.notices.end());
  std::string text;
  for (stored_tensor const* const t : fit.match.entries) require_checksum(*t, file.path());
  for (std::size_t i = 0; i < table.size(); ++i)
    if (std::string line = not_finite_text(*fit.match.entries[i]); line.empty())
      continue;
    else if (table[i].kind == entry_kind::unused)
      notices.push_back(std::move(line));
    else
      text += "\n  " + line;
  if (!text.empty())
    throw file_error{file.path(), "its weights are not finite numbers (a training that diverged?)" + text};
  return notices;
}

/// Prints what sound_weights_notices says, and throws as that does.
inline void require_sound_weights(std::string_view program, config const& c, tensor_file const& file) {
  print_notices(program, file, sound_weights_notices(c, file));
}

}  // namespace dm2::example
