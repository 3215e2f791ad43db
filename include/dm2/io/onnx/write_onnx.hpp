/// @file
/// Writes a model of any configuration as an ONNX file.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/onnx/file.hpp>
#include <dm2/io/onnx/graph.hpp>
#include <dm2/io/onnx/network.hpp>
#include <dm2/io/onnx/options.hpp>
#include <dm2/io/onnx/weights.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model_table.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// The metadata key that says what the input is.
inline constexpr char const* onnx_input_key = "input";

inline void require_onnx_options(config const& c, onnx_options const& o) {
  require_option(o.chunk >= 0, "onnx_options::chunk", o.chunk, "0 (what costs least) or more tokens");
  if (o.input != onnx_input::normalised && c.channels != 3)
    throw std::invalid_argument{"onnx_options::input: the statistics are of 3 channels, the model's picture has " +
                                std::to_string(c.channels)};
  for (float const deviation : o.statistics.std)
    require_option(deviation > 0, "onnx_options::statistics.std", deviation, "over 0");
  if (!o.class_names.empty() && o.class_names.size() != std::size_t(c.classes))
    throw std::invalid_argument{"onnx_options::class_names: got " + std::to_string(o.class_names.size()) +
                                " names, the model has " + std::to_string(c.classes) + " classes"};
  for (char const* const own : {"config", class_names_key, onnx_input_key})
    if (o.metadata.contains(own))
      throw std::invalid_argument{"onnx_options::metadata: the key '" + std::string{own} + "' is dm2's own"};
}

/// The file's metadata.
[[nodiscard]] inline std::map<std::string, std::string> onnx_metadata(config const& c, onnx_options const& o) {
  std::map<std::string, std::string> out = o.metadata;
  out["config"] = to_json(c).dump();
  if (!o.class_names.empty()) out[class_names_key] = class_names_text(o.class_names);
  nlohmann::ordered_json input{{"layout", o.input == onnx_input::bytes ? "NHWC" : "NCHW"}};
  input["range"] = o.input == onnx_input::bytes ? "0..255" : o.input == onnx_input::unit ? "0..1" : "normalised";
  for (auto const& [key, values] : {std::pair{"mean", o.statistics.mean}, std::pair{"std", o.statistics.std}})
    for (float const value : values) input[key].push_back(std::round(double(value) * 1e6) / 1e6);  // as it was written
  out[onnx_input_key] = input.dump();
  return out;
}

/// The tensors that are a model's entries, one for each. Throws std::invalid_argument, which names the caller, where
/// they are not: which are missing, and whose sizes differ, with both sizes.
[[nodiscard]] inline std::vector<stored_tensor const*> match_tensors(std::span<parameter_entry const> table,
                                                                     std::span<stored_tensor const> tensors,
                                                                     char const* caller) {
  model_match match = model_matcher{table, tensors}();
  std::vector<std::string> differences;
  for (std::string const& line : match.twice) differences.push_back("twice: " + line);
  compare_entries(table, match, differences);
  std::string text;
  for (std::size_t i = 0; i < differences.size() && i < 8; ++i) text += "\n  " + differences[i];
  if (!differences.empty())
    throw std::invalid_argument{std::string{caller} + ": the tensors are not the model's (" +
                                std::to_string(differences.size()) +
                                (differences.size() == 1 ? " difference)" : " differences)") + text};
  return std::move(match.entries);
}

/// As write_onnx, of tensors that are the model's, one for each entry.
inline void write_matched_onnx(config const& c, std::span<parameter_entry const> table,
                               std::span<stored_tensor const* const> tensors, onnx_options const& o,
                               std::filesystem::path const& path) {
  onnx_weights const weights{table, tensors};
  onnx_graph graph{o.half};
  onnx_network{graph, weights, c, o}();
  onnx_file_writer{graph, path, o.external_data}(onnx_metadata(c, o));
}

}  // namespace detail

/// Writes a model to an ONNX file: opset 17, one input `pixel_values` of the configuration's picture size and any
/// batch, outputs `logits` [batch, classes] and what the options ask for. No code of the model is needed. BatchNorm is
/// folded into the stem's convolutions, each norm's weight into the projection behind it, and a mixer's two output
/// projections are one. docs/onnx.md describes the graph.
///
/// `tensors` has the model's entries under their names in the published state dict, in any order and floating type,
/// with any of the prefixes that load ignores; other tensors are left out. They are only read.
///
///     dm2::tensor_file const file{"tiny.ckpt"};
///     dm2::write_onnx(dm2::config_of(file).configuration, file, {.input = dm2::onnx_input::bytes}, "tiny.onnx");
///
/// Writes   `path`, and `path`.data where weights are external, each whole or not at all (atomic_file).
/// Throws   std::invalid_argument where the configuration breaks a rule, an option makes no sense, or the tensors are
///          not the model's: which are missing, and whose sizes differ, with both sizes. std::range_error where a
///          weight does not fit half precision. file_error where the file cannot be written.
/// Source   https://onnx.ai/onnx/operators, https://onnx.ai/onnx/intro/concepts.html
inline void write_onnx(config const& c, std::span<stored_tensor const> tensors, onnx_options const& o,
                       std::filesystem::path const& path) {
  model_table const table{c};
  detail::require_onnx_options(c, o);
  detail::write_matched_onnx(c, table.entries(), detail::match_tensors(table.entries(), tensors, "write_onnx"), o,
                             path);
}

/// The same from an opened file of any format that tensor_file knows. Returns notices, a line each, as load does:
/// tensors of the file that are no part of the model.
///
/// Throws   file_error, too, where the file does not hold the model, as load does: it names the file, the tensors and
///          both sizes; and where a tensor is not what its checksum is of.
inline std::vector<std::string> write_onnx(config const& c, tensor_file const& file, onnx_options const& o,
                                           std::filesystem::path const& path) {
  model_table const table{c};
  detail::require_onnx_options(c, o);
  detail::model_fit fit = detail::fit_sound_model(c, table.entries(), file);
  detail::write_matched_onnx(c, table.entries(), fit.match.entries, o, path);
  return std::move(fit.notices);
}

}  // namespace dm2
