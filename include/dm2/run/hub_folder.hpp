/// @file
/// A folder as model hubs have them: configuration, weights, ONNX, model card.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/core/version.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/presets.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// "demansia2_tiny", after the preset that the configuration is nearest to.
[[nodiscard]] inline std::string hub_architecture(config const& c) {
  std::string const name = name_of(c);
  return "demansia2_" + name.substr(0, name.find(' '));
}

/// Numbers as people write them: 0.485, which is 0.48500001430511475 as a float.
[[nodiscard]] inline std::vector<double> decimal(std::array<float, 3> const& values) {
  std::vector<double> out;
  out.reserve(values.size());
  for (float const value : values) out.push_back(std::round(double(value) * 1e6) / 1e6);
  return out;
}

/// config.json: the fields that timm's repositories have, and the configuration as `model_args`.
[[nodiscard]] inline nlohmann::ordered_json hub_config(config const& c, onnx_options const& o) {
  nlohmann::ordered_json out{{"architecture", hub_architecture(c)},
                             {"num_classes", c.classes},
                             {"num_features", c.dim},
                             {"global_pool", "token"}};
  out["model_args"] = to_json(c);
  nlohmann::ordered_json& p = out["pretrained_cfg"];
  p["custom_load"] = false;
  p["input_size"] = {c.channels, c.image.height, c.image.width};
  p["fixed_input_size"] = true;
  p["interpolation"] = "bilinear";
  p["crop_pct"] = 0.875;
  p["crop_mode"] = "center";
  p["mean"] = decimal(o.statistics.mean);
  p["std"] = decimal(o.statistics.std);
  p["num_classes"] = c.classes;
  p["first_conv"] = "patch_embed.conv1";
  p["classifier"] = {"head", "aux_head"};
  if (!o.class_names.empty()) out["label_names"] = o.class_names;
  return out;
}

/// README.md, with what only the author knows left to fill in.
[[nodiscard]] inline std::string hub_card(config const& c, std::string const& origin, std::string const& title) {
  model_table const table{c};
  std::string const height = std::to_string(c.image.height), width = std::to_string(c.image.width);
  image_extent const resize = evaluation_resize(c.image);
  std::string const resized = resize.height == resize.width
                                  ? std::to_string(resize.height)
                                  : std::to_string(resize.height) + " x " + std::to_string(resize.width);
  return "---\n"
         "# license: to fill in before this is published\n"
         "library_name: dm2\n"
         "pipeline_tag: image-classification\n"
         "tags:\n- image-classification\n- mamba2\n- onnx\n"
         "---\n\n# " +
         title + "\n\nA DeMansia 2 picture classifier: " + describe(name_of(c), c) + ", " +
         std::to_string(table.parameter_count()) + " parameters.\n\n" +
         "| File | What it is |\n|---|---|\n"
         "| `model.safetensors` | the weights, names as in the published code; the configuration in the metadata |\n"
         "| `config.json` | timm's fields; `model_args` is the configuration |\n"
         "| `onnx/model.onnx` | the whole network: `pixel_values` [batch, " +
         std::to_string(c.channels) + ", " + height + ", " + width + "], normalised, to `logits` |\n\n" +
         "## Use\n\n```sh\ndm2 classify --weights model.safetensors photo.jpg\n```\n\n"
         "Input pictures: the shorter side to " +
         resized + " (bilinear, antialiased), the centre " + height + " x " + width +
         ", normalised by the mean and deviation in `config.json`.\n\n"
         "## Provenance\n\nWritten by dm2 " +
         version_text + " from " + origin +
         ".\n\n"
         "To fill in: who trained it, on which data, with which recipe, and its accuracy.\n\n"
         "## Licence\n\nTo fill in. The weights that the authors of DeMansia 2 publish state none: ask them before you "
         "publish those or what was fine-tuned from them.\n";
}

inline void write_text(std::filesystem::path const& path, std::string const& text) {
  atomic_file file{path};
  file.write(std::as_bytes(std::span{text}));
  file.commit();
}

inline void make_folder(std::filesystem::path const& folder) {
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) throw file_error{folder, "cannot be created: " + problem.message()};
}

/// As write_hub_folder, of tensors that are the model's, one for each entry.
inline void write_matched_hub_folder(config const& c, std::span<parameter_entry const> table,
                                     std::span<stored_tensor const* const> matched, std::string const& origin,
                                     onnx_options const& o, std::filesystem::path const& folder) {
  make_folder(folder / "onnx");
  write_matched_onnx(c, table, matched, o, folder / "onnx" / "model.onnx");
  std::vector<stored_tensor> tensors;
  tensors.reserve(table.size());
  for (std::size_t i = 0; i < table.size(); ++i) {
    tensors.push_back(*matched[i]);
    tensors.back().name = table[i].name;
  }
  std::map<std::string, std::string> metadata{{"config", to_json(c).dump()}, {"format", "pt"}};
  if (!o.class_names.empty()) metadata[class_names_key] = class_names_text(o.class_names);
  write_safetensors(folder / "model.safetensors", tensors, metadata);
  std::error_code ignored;
  if (std::filesystem::path const card = folder / "README.md"; !std::filesystem::exists(card, ignored)) {
    std::string const title = std::filesystem::weakly_canonical(folder, ignored).filename().string();
    write_text(card, hub_card(c, origin, title.empty() ? "DeMansia 2" : title));
  }
  write_text(folder / "config.json", hub_config(c, o).dump(2) + "\n");
}

}  // namespace detail

/// Of what a file's weights are, as a model card says it: "`tiny.ckpt` (Lightning), its averaged (EMA) weights".
[[nodiscard]] inline std::string weights_origin(tensor_file const& file) {
  std::string text = "`" + file.path().filename().string() + "` (" + std::string{name_of(file.format())} + ")";
  return text + (file.averaged() ? ", its averaged (EMA) weights" : "");
}

/// Writes a model as model hubs keep them: model.safetensors (the table's entries as they are stored, the configuration
/// and class names in its metadata), onnx/model.onnx (write_onnx with the options), README.md (a model card, with
/// provenance; training, accuracy and licence left to fill in) and config.json (timm's fields).
///
///     dm2::tensor_file const file{"best.safetensors"};
///     dm2::write_hub_folder(dm2::config_of(file).configuration, file, {}, "my-demansia");
///
/// Writes   the four files, each whole or not at all, config.json last; `folder` and `folder`/onnx where they are not
///          there. A README.md that is there already is kept, since it may have been filled in.
/// Returns  notices, as write_onnx.
/// Throws   as write_onnx; file_error where a folder or file cannot be written.
/// Source   https://huggingface.co/docs/timm/hf_hub
inline std::vector<std::string> write_hub_folder(config const& c, tensor_file const& file, onnx_options const& o,
                                                 std::filesystem::path const& folder) {
  model_table const table{c};
  detail::require_onnx_options(c, o);
  detail::model_fit fit = detail::fit_sound_model(c, table.entries(), file);
  detail::write_matched_hub_folder(c, table.entries(), fit.match.entries, weights_origin(file), o, folder);
  return std::move(fit.notices);
}

/// The same of tensors as write_onnx takes them. `origin`: of what the weights are, for the model card, as
/// weights_origin says it of a file.
inline void write_hub_folder(config const& c, std::span<stored_tensor const> tensors, std::string const& origin,
                             onnx_options const& o, std::filesystem::path const& folder) {
  model_table const table{c};
  detail::require_onnx_options(c, o);
  auto const matched = detail::match_tensors(table.entries(), tensors, "write_hub_folder");
  detail::write_matched_hub_folder(c, table.entries(), matched, origin, o, folder);
}

}  // namespace dm2
