/// @file
/// Names of tensors as paths: wrappers' components, and words for averages.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace dm2::detail {

/// Takes the first component off a path of components between dots or slashes, and the separator with it.
[[nodiscard]] constexpr std::string_view take_component(std::string_view& path) noexcept {
  std::size_t const end = std::min(path.find_first_of("./"), path.size());
  std::string_view const first = path.substr(0, end);
  path.remove_prefix(std::min(end + 1, path.size()));
  return first;
}

template <std::size_t N>
[[nodiscard]] constexpr bool is_one_of(std::string_view word, std::array<std::string_view, N> const& words) noexcept {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Whether a component is put in by torch.compile, FSDP or activation checkpointing, wherever it stands.
[[nodiscard]] constexpr bool is_wrapper(std::string_view component) noexcept {
  constexpr std::array<std::string_view, 3> words{"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"};
  return is_one_of(component, words);
}

/// Whether programs call the one network inside another object by that component.
[[nodiscard]] constexpr bool is_container(std::string_view component) noexcept {
  constexpr std::array<std::string_view, 9> words{"module",     "model",        "net", "network",        "backbone",
                                                  "base_model", "online_model", "raw", "_forward_module"};
  return is_one_of(component, words);
}

/// The name without the components that wrappers put in.
[[nodiscard]] inline std::string unwrapped(std::string_view name) {
  if (name.find('_') == name.npos) return std::string{name};
  std::string out;
  out.reserve(name.size());
  for (std::string_view rest = name; !rest.empty();) {
    std::string_view const all = rest, first = take_component(rest);
    if (is_wrapper(first) && !rest.empty()) continue;
    out += all.substr(0, all.size() - rest.size());
  }
  return out;
}

/// Whether a key or a component speaks of averaged weights: "model_ema", "EMAWeightAveraging", "swa_state_dict",
/// "shadow_params". Words end at other characters, and where a capital follows a small letter or begins a small word.
[[nodiscard]] constexpr bool speaks_of_average(std::string_view text) noexcept {
  constexpr std::array<std::string_view, 13> words{"ema",      "emas",     "swa",       "avg",    "average",
                                                   "averaged", "averages", "averaging", "shadow", "polyak",
                                                   "modelema", "emamodel", "netema"};
  constexpr auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; };
  constexpr auto is_capital = [](char c) { return c >= 'A' && c <= 'Z'; };
  constexpr auto is_small = [](char c) { return c >= 'a' && c <= 'z'; };
  if (text.find("exp_avg") != text.npos) return false;  // Adam's moments
  for (std::size_t first = 0; first < text.size();) {
    std::size_t end = first;
    for (; end < text.size() && (is_small(text[end]) || is_capital(text[end])); ++end) {
      if (end == first || !is_capital(text[end])) continue;
      if (is_small(text[end - 1]) || (end + 1 < text.size() && is_small(text[end + 1]))) break;
    }
    std::string_view const word = text.substr(first, end - first);
    for (std::string_view const known : words)
      if (std::equal(word.begin(), word.end(), known.begin(), known.end(),
                     [&](char a, char b) { return lower(a) == b; }))
        return true;
    first = end == first ? first + 1 : end;
  }
  return false;
}

/// Whether a checkpoint's key is that of an optimizer's state, a schedule's, or a run's.
[[nodiscard]] constexpr bool is_other_state(std::string_view key) noexcept {
  return key.find("optim") != key.npos || key.find("sched") != key.npos || key == "loops" || key == "hyper_parameters";
}

/// The rest of a component after the word for averages and an underscore: "head_weight" for "ema_head_weight", as MMCV
/// names its buffers. Empty where there is no such word.
[[nodiscard]] constexpr std::string_view after_underscore(std::string_view component) noexcept {
  std::size_t const end = component.find('_');
  if (end == component.npos || !speaks_of_average(component.substr(0, end))) return {};
  return component.substr(end + 1);
}

/// The name less the containers, wrappers and words for averages that it begins with: "head.weight" for
/// "ema.module.model._orig_mod.head.weight".
[[nodiscard]] inline std::string core_name(std::string_view name) {
  std::string const plain = unwrapped(name);
  std::string_view rest = plain;
  for (;;) {
    std::string_view next = rest;
    std::string_view const first = take_component(next);
    if (next.empty() && !after_underscore(first).empty()) return std::string{after_underscore(first)};
    if (next.empty() || !(is_container(first) || speaks_of_average(first))) return std::string{rest};
    rest = next;
  }
}

/// The rest of a name after the word for averages among its first components, containers only before it; empty
/// where it has none: "head.weight" for "model.model_ema.head.weight", "" for "layers.0.ema.weight".
[[nodiscard]] constexpr std::string_view after_average(std::string_view name) noexcept {
  for (std::string_view rest = name; !rest.empty();) {
    std::string_view const first = take_component(rest);
    if (speaks_of_average(first)) return rest.empty() ? after_underscore(first) : rest;
    if (!is_container(first) && !is_wrapper(first)) return {};
  }
  return {};
}

/// Whether a name is the last component of an average's bookkeeping, not of a weight.
[[nodiscard]] constexpr bool is_average_bookkeeping(std::string_view name) noexcept {
  constexpr std::array<std::string_view, 9> words{
      "n_averaged", "num_updates", "updates", "decay", "step", "initted", "ema_decay", "steps", "optimization_step"};
  return is_one_of(name.substr(name.find_last_of("./") + 1), words);
}

/// Whether a name is that of a buffer of BatchNorm, which some averages leave out.
[[nodiscard]] constexpr bool is_batch_statistic(std::string_view name) noexcept {
  return name.ends_with("running_mean") || name.ends_with("running_var") || name.ends_with("num_batches_tracked");
}

}  // namespace dm2::detail
