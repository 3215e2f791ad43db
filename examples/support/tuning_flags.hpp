/// @file
/// The flags of fine-tuning: frozen layers, and rates and decays of their own.
#pragma once

#include <dm2/core/optimizer_options.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/train/parameter_groups.hpp>

#include <CLI/CLI.hpp>

#include "command_line.hpp"
#include "text.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace dm2::example {

/// As a person types them; docs/fine_tuning.md says what they mean.
struct tuning_flags {
  std::string freeze = "none", no_decay = "none";
  double layer_decay = 1, head_scale = 1;
};

inline void add_tuning_flags(CLI::App& app, tuning_flags& f) {
  std::string const group = "Fine-tuning";
  double const least = std::numeric_limits<double>::min();
  app.add_option("--freeze", f.freeze,
                 "Layers that stay as they are: backbone (all but the heads), N (the stem and the first N\n"
                 "layers; 0: the stem), or none")
      ->type_name("backbone|N|none")
      ->group(group);
  app.add_option("--layer-decay", f.layer_decay,
                 "Each layer learns at X times the rate of the one above it; the heads at the whole rate (1)")
      ->type_name("X")
      ->check(CLI::Range(least, 1.0).description(""))
      ->group(group);
  app.add_option("--head-lr-scale", f.head_scale, "The heads learn at X times their rate (1)")
      ->type_name("X")
      ->check(CLI::Range(least, 1e9).description(""))
      ->group(group);
  app.add_option("--no-decay", f.no_decay,
                 "What weight decay leaves alone: 1d (parameters of one dimension), norm, bias, scan, embedding,\n"
                 "head, and (parts of) parameters' names; timm's rule is 1d,cls_token,pos_embed")
      ->type_name("WORD,...|none")
      ->group(group);
}

namespace detail {

/// "a,b" to its words. Throws usage_error where one is empty.
[[nodiscard]] inline std::vector<std::string> comma_words(std::string const& flag, std::string const& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; !text.empty() && at <= text.size();) {
    std::size_t const end = std::min(text.find(',', at), text.size());
    if (end == at) throw usage_error{flag + " " + text + ": a word is empty"};
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

/// Layers that --freeze means, from the stem on, of a model of so many. Throws usage_error where it means none.
[[nodiscard]] inline int frozen_layers(std::string const& word, int depth) {
  if (word == "none") return 0;
  if (word == "backbone") return depth + 1;
  int n = -1;
  auto const [end, problem] = std::from_chars(word.data(), word.data() + word.size(), n);
  if (problem != std::errc{} || end != word.data() + word.size() || n < 0 || n > depth)
    throw usage_error{"--freeze " + word + ": expected backbone, none, or 0 (the stem) to " + std::to_string(depth) +
                      ", the model's layers"};
  return n + 1;
}

}  // namespace detail

/// What the flags mean for a model of that table. Throws usage_error where they mean nothing for it.
[[nodiscard]] inline tuning_options flagged_tuning(tuning_flags const& f, std::span<parameter_entry const> table) {
  int heads = 0;
  for (parameter_entry const& e : table) heads = std::max(heads, e.layer);
  tuning_options out{
      .frozen = detail::frozen_layers(f.freeze, heads - 1),
      .layer_decay = f.layer_decay,
      .head_scale = f.head_scale,
      .no_decay = f.no_decay == "none" ? std::vector<std::string>{} : detail::comma_words("--no-decay", f.no_decay)};
  try {
    static_cast<void>(parameter_groups{table, {.tuning = out}});
  } catch (std::invalid_argument const& problem) {
    throw usage_error{"--no-decay " + f.no_decay + ": " + problem.what()};
  }
  return out;
}

/// What a run's description says of them: "trains 1,290 of 9,514,032 parameters; ..."; empty where all is by default.
[[nodiscard]] inline std::string tuning_text(tuning_flags const& f, optimizer_options const& o,
                                             std::span<parameter_entry const> table) {
  parameter_groups const groups{table, o};
  std::size_t trained = 0, all = 0, spared = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].kind != entry_kind::parameter) continue;
    all += table[i].size;
    if (!groups.moves(i)) continue;
    trained += table[i].size;
    if (groups.groups()[groups.of(i)].decay == 0) spared += table[i].size;
  }
  std::vector<std::string> parts;
  auto const number = [](double value) { return shortest(float(value)); };
  if (trained != all) parts.push_back("trains " + grouped(trained) + " of " + grouped(all) + " parameters");
  if (f.layer_decay != 1) parts.push_back("each layer down learns at " + number(f.layer_decay) + " of the rate");
  if (f.head_scale != 1) parts.push_back("heads at " + number(f.head_scale) + " times the rate");
  if (f.no_decay != "none") parts.push_back("no decay of " + grouped(spared) + " of them");
  std::string out;
  for (std::string const& part : parts) out += (out.empty() ? "" : "; ") + part;
  return out;
}

}  // namespace dm2::example
