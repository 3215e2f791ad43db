/// @file
/// A model's state from and to a file: all of it, or none.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/io/checksums.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/tensor_names.hpp>
#include <dm2/io/told_config.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2 {

/// A model that load and save take: it has a configuration, a table, and the two buffers that the table points into.
template <class M>
concept checkpoint_model = requires(M& net, M const& fixed) {
  { M::configuration } -> std::convertible_to<config const&>;
  std::span<parameter_entry const>{fixed.table()};
  net.state()[0] = fixed.state()[0];
  std::span<std::int64_t>{net.counters()};
  std::span<std::int64_t const>{fixed.counters()};
};

namespace detail {

/// A file held against a configuration and its table.
struct model_fit {
  model_match match;
  std::vector<std::string> differences;  ///< a line each; none: the file holds the model
  std::vector<std::string> notices;      ///< parts not compared, or in the file beside the model, a line each
};

/// Everything in which the tensors of the entries are not the table's, a line each.
inline void compare_entries(std::span<parameter_entry const> table, model_match const& match,
                            std::vector<std::string>& out) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& entry = table[i];
    stored_tensor const* const t = match.entries[i];
    std::vector<std::int64_t> const shape(entry.shape.begin(), entry.shape.begin() + entry.rank);
    if (t == nullptr)
      out.push_back("missing: " + std::string{entry.name} + " " + shape_text(shape));
    else if (t->shape != shape)
      out.push_back("shape: " + t->name + " is " + shape_text(t->shape) + " in the file, " + shape_text(shape) +
                    " in the program");
    else if (entry.kind == entry_kind::counter && is_floating(t->type))
      out.push_back("type: " + t->name + " is " + std::string{name_of(t->type)} + ", an integer is expected");
  }
}

/// Whether a tensor that is no entry would be the model's own, were the model another: a layer more, a parameter more
/// of a layer. What profilers and rotary embeddings keep beside the parameters is not.
inline bool is_models_own(std::string_view name, std::string_view prefix, std::span<parameter_entry const> table) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  constexpr std::array<std::string_view, 3> aside{"total_ops", "total_params", "inv_freq"};
  if (is_one_of(name.substr(name.find_last_of('.') + 1), aside)) return false;
  std::string_view const first = take_component(name);
  return std::any_of(table.begin(), table.end(), [first](parameter_entry const& e) {
    std::string_view rest = e.name;
    return take_component(rest) == first;
  });
}

/// Holds a file against a model. Tensors beside a whole model, such as a loss's, do not make it another: they are
/// notices. Where entries are missing they may be those under other names, and are differences.
inline model_fit fit_model(config const& program, std::span<parameter_entry const> table, tensor_file const& file) {
  model_fit out;
  out.differences = config_differences(program, told_config(file, out.notices));
  for (std::string& line : out.differences) line.insert(0, "configuration: ");
  out.match = model_matcher{table, file.tensors()}();
  for (std::string const& line : out.match.twice) out.differences.push_back("twice: " + line);
  compare_entries(table, out.match, out.differences);
  bool const whole = out.match.found == table.size();
  for (stored_tensor const* const t : out.match.surplus)
    if (!whole || is_models_own(unwrapped(t->name), out.match.prefix, table))
      out.differences.push_back("surplus: " + t->name + " " + shape_text(t->shape));
    else
      out.notices.push_back("'" + t->name + "' " + shape_text(t->shape) + " is no part of the model and left out");
  return out;
}

/// The message for a file that is not the model: how many differences, where most of them come from, and the first few.
inline std::string misfit_text(std::span<parameter_entry const> table, tensor_file const& file,
                               model_match const& match, std::vector<std::string> const& differences) {
  constexpr std::size_t most = 8;
  std::string const cause = misfit_cause(table, file.tensors(), match);
  std::string text = "does not fit the model (" + std::to_string(differences.size()) +
                     (differences.size() == 1 ? " difference)" : " differences)") + (cause.empty() ? "" : ": " + cause);
  for (std::size_t i = 0; i < differences.size() && i < most; ++i) text += "\n  " + differences[i];
  if (differences.size() > most) text += "\n  ... and " + std::to_string(differences.size() - most) + " more";
  return text;
}

/// A file's tensors as a model's entries. Throws file_error where they are not, or where a tensor is not what its
/// checksum is of.
inline model_fit fit_sound_model(config const& c, std::span<parameter_entry const> table, tensor_file const& file) {
  model_fit fit = fit_model(c, table, file);
  if (!fit.differences.empty()) throw file_error{file.path(), misfit_text(table, file, fit.match, fit.differences)};
  for (stored_tensor const* const t : fit.match.entries) require_checksum(*t, file.path());
  return fit;
}

/// A table's entry as a tensor to write, under its name with `prefix` before it: a view of its part of `values`.
template <class T>
stored_tensor entry_tensor(std::string_view prefix, parameter_entry const& entry, std::span<T const> values) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, std::int64_t>,
                "dm2::detail::entry_tensor: float, double or a counter's integers");
  stored_tensor t;
  t.name = std::string{prefix} + std::string{entry.name};
  t.type = std::is_same_v<T, std::int64_t> ? dtype::i64 : std::is_same_v<T, double> ? dtype::f64 : dtype::f32;
  t.shape.assign(entry.shape.begin(), entry.shape.begin() + entry.rank);
  t.strides = contiguous_strides(t.shape);
  t.data = std::as_bytes(values.subspan(entry.offset, entry.size)).data();
  return t;
}

/// Appends a model's entries as tensors to write: its state's, and its counters'.
template <class T>
void add_entry_tensors(std::vector<stored_tensor>& to, std::string_view prefix, std::span<parameter_entry const> table,
                       std::span<T const> state, std::span<std::int64_t const> counters) {
  for (parameter_entry const& entry : table)
    to.push_back(entry.kind == entry_kind::counter ? entry_tensor(prefix, entry, counters)
                                                   : entry_tensor(prefix, entry, state));
}

}  // namespace detail

namespace detail {

/// As load, of whatever has a configuration, a table, a state and counters.
template <class T>
std::vector<std::string> load_entries(config const& c, std::span<parameter_entry const> table, std::span<T> state,
                                      std::span<std::int64_t> counters, tensor_file const& file) {
  model_fit fit = fit_sound_model(c, table, file);
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& entry = table[i];
    stored_tensor const& t = *fit.match.entries[i];
    if (entry.kind == entry_kind::counter)
      copy_to(t, counters.subspan(entry.offset, 1));
    else
      copy_to(t, state.subspan(entry.offset, entry.size));
    if (std::string line = not_finite_text<T>(t); !line.empty()) fit.notices.push_back(std::move(line));
  }
  return std::move(fit.notices);
}

/// As save, of whatever has a configuration, a table, a state and counters.
template <class T>
void save_entries(config const& c, std::span<parameter_entry const> table, std::span<T const> state,
                  std::span<std::int64_t const> counters, std::filesystem::path const& path,
                  std::map<std::string, std::string> metadata) {
  if (metadata.contains("config") || metadata.contains("format") || metadata.contains(training_key))
    throw std::invalid_argument{"dm2::save: the metadata keys 'config', 'format' and 'training' are dm2's own"};
  metadata["config"] = to_json(c).dump();
  metadata["format"] = "pt";
  std::vector<stored_tensor> tensors;
  add_entry_tensors(tensors, "", table, state, counters);
  write_safetensors(path, tensors, metadata);
}

}  // namespace detail

/// Fills the model's parameters, statistics and counters from an opened file, converting from whatever floating type it
/// holds. Returns notices, a line each: tensors of the file that are no part of the model, and
/// entries with numbers that are not finite (in the file, or in the model's type). None is the usual case.
///
/// The file has to hold the table's names, in any order. A prefix of most of them ("model.", "module.") is
/// ignored, and so is torch.compile's component ("_orig_mod."); two names that mean one entry are an error. The
/// configuration in the metadata (key "config") or in a Lightning checkpoint's hyper_parameters, where there is one,
/// has to be the model's; what there cannot be read as one is not compared, and a line of the result says so.
///
/// Throws file_error that says how many differences there are and lists the first; checkpoint_differences has them all.
/// Throws it also where the file states checksums and a tensor's bytes have another.
/// The model is unchanged then.
template <checkpoint_model M>
std::vector<std::string> load(M& net, tensor_file const& file) {
  auto const state = net.state();
  return detail::load_entries(M::configuration, std::span<parameter_entry const>{net.table()}, std::span{state},
                              std::span<std::int64_t>{net.counters()}, file);
}

/// Fills the model from a file of any format that tensor_file knows. `which` chooses between a checkpoint's weights and
/// their running averages; automatic takes the averages where there are any. The result has the file's notices, too.
template <checkpoint_model M>
std::vector<std::string> load(M& net, std::filesystem::path const& path, weights which = weights::automatic) {
  tensor_file const file{path, which};
  std::vector<std::string> notices = load(net, file);
  notices.insert(notices.begin(), file.notices().begin(), file.notices().end());
  return notices;
}

/// Writes the model's state to a safetensors file, whole or not at all: every entry of the table in the model's own
/// precision, the configuration under the metadata key "config", and "format": "pt", by which Python's packages know
/// whose names these are. `metadata` is added; its keys may not be those two, nor "training".
///
/// Throws std::invalid_argument for such a key, file_error where the file cannot be written.
template <checkpoint_model M>
void save(M const& net, std::filesystem::path const& path, std::map<std::string, std::string> metadata = {}) {
  auto const state = net.state();
  using value = std::remove_cvref_t<decltype(state[0])>;
  detail::save_entries<value>(M::configuration, std::span<parameter_entry const>{net.table()}, state, net.counters(),
                              path, std::move(metadata));
}

}  // namespace dm2
