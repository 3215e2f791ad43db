/// @file
/// A model's state from and to a file: all of it, or none.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include <algorithm>
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
#include <unordered_map>
#include <utility>
#include <vector>

namespace dm2 {

/// What load and save need of a model: its configuration, its table, and the two buffers that the table points into.
template <class M>
concept checkpoint_model = requires(M& net, M const& fixed) {
  { M::configuration } -> std::convertible_to<config const&>;
  std::span<parameter_entry const>{fixed.table()};
  net.state()[0] = fixed.state()[0];
  std::span<std::int64_t>{net.counters()};
  std::span<std::int64_t const>{fixed.counters()};
};

namespace detail {

/// What wrappers put before every name ("model.", "_orig_mod.", "module."): the text before a table's name that the
/// first tensor ends with, where every tensor of the file begins with it. Empty where some name fits as it is.
inline std::string common_prefix(std::span<parameter_entry const> table, tensor_file const& file) {
  if (file.tensors().empty()) return {};
  std::string_view const first = file.tensors()[0].name;
  std::size_t length = first.size();
  for (parameter_entry const& entry : table) {
    if (file.find(entry.name) != nullptr) return {};
    bool const ends = first.size() > entry.name.size() && first.ends_with(entry.name) &&
                      first[first.size() - entry.name.size() - 1] == '.';
    if (ends) length = std::min(length, first.size() - entry.name.size());
  }
  if (length == first.size()) return {};
  for (stored_tensor const& t : file.tensors())
    if (!t.name.starts_with(first.substr(0, length))) return {};
  return std::string{first.substr(0, length)};
}

/// Everything in which the file's tensors are not the table's, a line each.
inline std::vector<std::string> tensor_differences(std::span<parameter_entry const> table, tensor_file const& file,
                                                   std::string const& prefix) {
  std::vector<std::string> out;
  std::unordered_map<std::string_view, parameter_entry const*> wanted;
  for (parameter_entry const& entry : table) {
    wanted.emplace(entry.name, &entry);
    stored_tensor const* const t = file.find(prefix + std::string{entry.name});
    std::vector<std::int64_t> const shape(entry.shape.begin(), entry.shape.begin() + entry.rank);
    if (t == nullptr)
      out.push_back("missing: " + std::string{entry.name} + " " + shape_text(shape));
    else if (t->shape != shape)
      out.push_back("shape: " + t->name + " is " + shape_text(t->shape) + " in the file, " + shape_text(shape) +
                    " in the program");
    else if (entry.kind == entry_kind::counter && is_floating(t->type))
      out.push_back("type: " + t->name + " is " + std::string{name_of(t->type)} + ", an integer is expected");
  }
  for (stored_tensor const& t : file.tensors())
    if (!wanted.contains(std::string_view{t.name}.substr(prefix.size())))
      out.push_back("surplus: " + t.name + " " + shape_text(t.shape));
  return out;
}

/// Everything in which the file's configuration, where it has one, is not the program's.
inline std::vector<std::string> file_config_differences(config const& program, tensor_file const& file) {
  std::vector<std::string> out;
  if (file.hyper_parameters().is_object())
    out = config_differences(program, config_of_hyper_parameters(file.hyper_parameters()));
  if (auto const found = file.metadata().find("config"); found != file.metadata().end()) {
    auto const parsed = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
    for (std::string& line : config_differences(program, parsed)) out.push_back(std::move(line));
  }
  for (std::string& line : out) line.insert(0, "configuration: ");
  return out;
}

/// Everything in which a file is not a model of that configuration and table, a line each.
inline std::vector<std::string> model_differences(config const& program, std::span<parameter_entry const> table,
                                                  tensor_file const& file) {
  std::vector<std::string> out = file_config_differences(program, file);
  for (std::string& line : tensor_differences(table, file, common_prefix(table, file))) out.push_back(std::move(line));
  return out;
}

template <class T>
inline constexpr dtype dtype_of = std::is_same_v<T, double> ? dtype::f64 : dtype::f32;

}  // namespace detail

/// Fills the model's parameters, statistics and counters from an opened file, converting from whatever floating type it
/// holds.
///
/// The file has to hold the table's names exactly, in any order. One prefix that every name of the file shares
/// ("model.", "_orig_mod.") is ignored; a name without it, or a tensor that the table lacks, is an error. The
/// configuration in the metadata (key "config") or in a Lightning checkpoint's hyper_parameters, where there is one,
/// has to be the model's.
///
/// Throws file_error that lists every difference, a line each; the model is unchanged then.
template <checkpoint_model M>
void load(M& net, tensor_file const& file) {
  std::span<parameter_entry const> const table{net.table()};
  std::string const prefix = detail::common_prefix(table, file);
  std::vector<std::string> const wrong = detail::model_differences(M::configuration, table, file);
  if (!wrong.empty()) {
    std::string text = "does not fit the model (" + std::to_string(wrong.size()) + " differences)";
    for (std::string const& line : wrong) text += "\n  " + line;
    throw file_error{file.path(), text};
  }
  auto const state = net.state();
  auto const counters = std::span<std::int64_t>{net.counters()};
  for (parameter_entry const& entry : table) {
    stored_tensor const& t = file.at(prefix + std::string{entry.name});
    if (entry.kind == entry_kind::counter)
      copy_to(t, counters.subspan(entry.offset, 1));
    else
      copy_to(t, state.subspan(entry.offset, entry.size));
  }
}

/// Fills the model from a file of any format that tensor_file knows. `which` chooses between a Lightning checkpoint's
/// weights and their running averages; automatic takes the averages where there are any.
template <checkpoint_model M>
void load(M& net, std::filesystem::path const& path, weights which = weights::automatic) {
  load(net, tensor_file{path, which});
}

/// Writes the model's state to a safetensors file, whole or not at all: every entry of the table in the model's own
/// precision, the configuration under the metadata key "config", and "format": "pt", by which Python's packages know
/// whose names these are. `metadata` is added; its keys may not be those two, nor "training".
///
/// Throws std::invalid_argument for such a key, file_error where the file cannot be written.
template <checkpoint_model M>
void save(M const& net, std::filesystem::path const& path, std::map<std::string, std::string> metadata = {}) {
  if (metadata.contains("config") || metadata.contains("format") || metadata.contains(training_key))
    throw std::invalid_argument{"dm2::save: the metadata keys 'config', 'format' and 'training' are dm2's own"};
  metadata["config"] = to_json(M::configuration).dump();
  metadata["format"] = "pt";
  auto const state = net.state();
  auto const counters = std::span<std::int64_t const>{net.counters()};
  using value = std::remove_cvref_t<decltype(state[0])>;
  static_assert(std::is_same_v<value, float> || std::is_same_v<value, double>, "dm2::save: float or double");
  std::vector<stored_tensor> tensors;
  for (parameter_entry const& entry : std::span<parameter_entry const>{net.table()}) {
    stored_tensor t;
    t.name = entry.name;
    t.shape.assign(entry.shape.begin(), entry.shape.begin() + entry.rank);
    t.strides = detail::contiguous_strides(t.shape);
    bool const counter = entry.kind == entry_kind::counter;
    t.type = counter ? dtype::i64 : detail::dtype_of<value>;
    t.data = counter ? std::as_bytes(counters.subspan(entry.offset, 1)).data()
                     : std::as_bytes(state.subspan(entry.offset, entry.size)).data();
    tensors.push_back(std::move(t));
  }
  write_safetensors(path, tensors, metadata);
}

}  // namespace dm2
