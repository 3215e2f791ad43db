/// @file
/// One opened file of named tensors, whatever its format.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/lightning.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/safetensors.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/torch_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// The formats that tensor_file knows.
enum class file_format { safetensors, torch_zip, torch_legacy, lightning };

/// "safetensors", "torch (zip)", "torch (legacy)", "Lightning checkpoint"
[[nodiscard]] constexpr std::string_view name_of(file_format format) noexcept {
  switch (format) {
    case file_format::safetensors:
      return "safetensors";
    case file_format::torch_zip:
      return "torch (zip)";
    case file_format::torch_legacy:
      return "torch (legacy)";
    case file_format::lightning:
      return "Lightning checkpoint";
  }
  return "";
}

/// The metadata key that marks dm2's own training checkpoints.
inline constexpr char const* training_key = "training";
/// What the names of a training checkpoint's weights, as the optimizer left them, begin with.
inline constexpr std::string_view raw_prefix = "raw/";
/// What the names of the weights' running averages in a training checkpoint begin with.
inline constexpr std::string_view ema_prefix = "ema/";

/// A file's tensors and what it says about them. The format is told by the content, not by the name. The file stays
/// mapped as long as this lives, and so do the tensors, which are views of it. Move-only.
///
/// Throws file_error naming the file, the tensor and the reason for whatever is damaged, refused or unknown. Memory
/// taken is bounded by a small multiple of the file's header or pickle, whatever sizes it claims.
class tensor_file {
 public:
  /// `which` chooses between a checkpoint's weights and their running averages, in a Lightning checkpoint and in dm2's
  /// own training checkpoints, whose optimizer state is left out. weights::ema on a file that holds one set only is an
  /// error.
  explicit tensor_file(std::filesystem::path const& path, weights which = weights::automatic) : file_{path} {
    auto const bytes = file_.bytes();
    if (bytes.empty()) throw file_error{path, "is empty"};
    // safetensors first: a header of 640 bytes begins with 0x80 0x02, as a pickle does
    if (looks_like_safetensors(bytes))
      read_safetensors_content(which);
    else if (looks_like_zip(bytes) || looks_like_pickle(bytes))
      read_torch(which);
    else
      throw file_error{path, "is none of safetensors, torch file and Lightning checkpoint (by its content)"};
    index();
  }

  /// The file, as the constructor was given it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return file_.path(); }
  /// The format that the content has.
  [[nodiscard]] file_format format() const noexcept { return format_; }
  /// Whether the tensors are a checkpoint's running averages.
  [[nodiscard]] bool averaged() const noexcept { return averaged_; }
  /// In the file's order.
  [[nodiscard]] std::span<stored_tensor const> tensors() const noexcept { return tensors_; }
  /// A safetensors file's metadata; empty for other formats.
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }
  /// A Lightning checkpoint's `hyper_parameters`; null for other formats.
  [[nodiscard]] nlohmann::json const& hyper_parameters() const noexcept { return hyper_parameters_; }

  /// The tensor of that name, or null.
  [[nodiscard]] stored_tensor const* find(std::string_view name) const noexcept {
    auto const at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [&](std::size_t i, std::string_view n) { return tensors_[i].name < n; });
    return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }
  /// The tensor of that name; throws file_error where there is none.
  [[nodiscard]] stored_tensor const& at(std::string_view name) const {
    if (stored_tensor const* t = find(name)) return *t;
    throw file_error{path(), "holds no tensor '" + std::string{name} + "'"};
  }

 private:
  void read_torch(weights which) {
    torch_file const torch{file_.bytes(), file_.path()};
    torch_content content = read_torch_content(torch, which);
    format_ = content.lightning ? file_format::lightning
              : torch.is_zip()  ? file_format::torch_zip
                                : file_format::torch_legacy;
    averaged_ = content.averaged;
    tensors_ = std::move(content.tensors);
    hyper_parameters_ = std::move(content.hyper_parameters);
  }
  void read_safetensors_content(weights which) {
    safetensors_content content = read_safetensors(file_.bytes(), file_.path());
    tensors_ = std::move(content.tensors);
    metadata_ = std::move(content.metadata);
    if (metadata_.contains(training_key))
      choose_training_weights(which);
    else if (which == weights::ema)
      throw file_error{path(), "is a safetensors file, which holds one set of weights; EMA weights cannot be chosen"};
  }
  /// Of a training checkpoint, the tensors of one set under the model's own names.
  void choose_training_weights(weights which) {
    std::string_view const prefix = which == weights::raw ? raw_prefix : ema_prefix;
    std::erase_if(tensors_, [&](stored_tensor const& t) { return !t.name.starts_with(prefix); });
    for (stored_tensor& t : tensors_) t.name.erase(0, prefix.size());
    averaged_ = which != weights::raw;
  }
  void index() {
    by_name_.resize(tensors_.size());
    std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
  }

  mapped_file file_;
  file_format format_ = file_format::safetensors;
  bool averaged_ = false;
  std::vector<stored_tensor> tensors_;
  std::vector<std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
  nlohmann::json hyper_parameters_;
};

}  // namespace dm2
