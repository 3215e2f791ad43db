/// @file
/// One opened file of named tensors, whatever its format.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/checksums.hpp>
#include <dm2/io/describe_file.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/lightning.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/safetensors.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/torch_file.hpp>
#include <dm2/io/weight_sets.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <map>
#include <new>
#include <numeric>
#include <span>
#include <stdexcept>
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
/// Prefix of a training checkpoint's weights, as the optimizer left them.
inline constexpr std::string_view raw_prefix = "raw/";
/// Prefix of the weights' running averages in a training checkpoint.
inline constexpr std::string_view ema_prefix = "ema/";

/// A file's tensors and metadata. The format is told by the content, not by the name. The file stays mapped as long as
/// this lives; the tensors are views of it. Move-only.
///
/// Throws file_error naming the file, the tensor and the reason for whatever is damaged, refused or unknown. Memory
/// taken is bounded by a small multiple of the file's header or pickle (docs/reliability.md has it), time by the file's
/// length, whatever it claims.
class tensor_file {
 public:
  /// Opens a file. `which` chooses between weights and their running averages. Torch and Lightning checkpoints may hold
  /// both, dm2's training checkpoints do (their optimizer's state is left out), and so does any file whose names tell
  /// two sets apart. weights::ema on a file that holds no averages is an error, and so is a file without any tensor.
  explicit tensor_file(std::filesystem::path const& path, weights which = weights::automatic) : file_{path} {
    try {
      read(which);
    } catch (std::bad_alloc const&) {
      throw file_error{path, "memory ran out while it was read"};
    } catch (std::length_error const&) {
      throw file_error{path, "memory ran out while it was read"};
    } catch (nlohmann::json::exception const& problem) {
      throw file_error{path, std::string{"holds text that cannot be JSON: "} + problem.what()};
    }
  }

  /// The file, as the constructor was given it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return file_.path(); }
  /// The format that the content has.
  [[nodiscard]] file_format format() const noexcept { return format_; }
  /// Whether the tensors are a checkpoint's running averages.
  [[nodiscard]] bool averaged() const noexcept { return averaged_; }
  /// Whether it is one of dm2's own training checkpoints, of which one set of weights is offered.
  [[nodiscard]] bool is_training_checkpoint() const noexcept { return training_; }
  /// Whether the file states a checksum of each tensor: who reads a tensor's elements calls require_checksum first.
  [[nodiscard]] bool has_checksums() const noexcept { return checksums_; }
  /// In the file's order.
  [[nodiscard]] std::span<stored_tensor const> tensors() const noexcept { return tensors_; }
  /// A safetensors file's metadata, less the checksums; empty for other formats.
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }
  /// A Lightning checkpoint's `hyper_parameters`; null for other formats.
  [[nodiscard]] nlohmann::json const& hyper_parameters() const noexcept { return hyper_parameters_; }
  /// Parts of the file that were left out or not understood, a line each: UTF-8, without controls.
  [[nodiscard]] std::span<std::string const> notices() const noexcept { return notices_; }

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
  void read(weights which) {
    auto const bytes = file_.bytes();
    if (bytes.empty()) throw file_error{path(), "is empty"};
    // safetensors first: a header of 640 bytes begins with 0x80 0x02, as a pickle does
    if (looks_like_safetensors(bytes))
      read_safetensors_content(which);
    else if (looks_like_zip(bytes) || looks_like_pickle(bytes))
      read_torch(which);
    else
      throw file_error{path(),
                       "is none of safetensors, torch file and Lightning checkpoint" + detail::described(bytes)};
    if (tensors_.empty()) throw file_error{path(), "holds no tensor"};
    require_plausible_size();
    index();
    for (std::string& line : notices_) line = detail::printable(line);  // they quote names of the file
  }
  /// A torch file may name one storage many times. Whoever reads every tensor, or writes them, would take time and
  /// space that the file's size does not justify: 16 times it are more than sets of weights that share anything come
  /// to.
  void require_plausible_size() const {
    std::uint64_t named = 0;
    for (stored_tensor const& t : tensors_) named += std::uint64_t{t.size()} * size_of(t.type);
    if (named / 16 > file_.bytes().size())
      throw file_error{path(), "names tensors of " + std::to_string(named) +
                                   " bytes in all, over 16 times the file's " + std::to_string(file_.bytes().size())};
  }
  void read_torch(weights which) {
    torch_file const torch{file_.bytes(), file_.path()};
    torch_content content = read_torch_content(torch, which);
    format_ = content.lightning ? file_format::lightning
              : torch.is_zip()  ? file_format::torch_zip
                                : file_format::torch_legacy;
    averaged_ = content.averaged;
    tensors_ = std::move(content.tensors);
    hyper_parameters_ = std::move(content.hyper_parameters);
    notices_ = std::move(content.notices);
  }
  void read_safetensors_content(weights which) {
    safetensors_content content = read_safetensors(file_.bytes(), file_.path());
    if (content.tensors.empty() && !content.left_out.empty())
      throw file_error{path(), "holds no tensor that can be read: " + content.left_out.front()};
    tensors_ = std::move(content.tensors);
    metadata_ = std::move(content.metadata);
    checksums_ = detail::take_checksums(tensors_, metadata_, path());
    metadata_.erase(checksums_key);  // of the file's names, which are not those that are offered
    training_ = marks_training_checkpoint();
    if (training_)
      choose_training_weights(which);
    else
      choose_named_weights(which);
    std::move(content.left_out.begin(), content.left_out.end(), std::back_inserter(notices_));
  }
  [[nodiscard]] bool holds(std::string_view prefix) const {
    return std::any_of(tensors_.begin(), tensors_.end(),
                       [prefix](stored_tensor const& t) { return t.name.starts_with(prefix); });
  }
  /// Whether the metadata say so and the tensors are there. A key of that name alone says nothing: any program may
  /// write one. Throws where the two contradict each other.
  [[nodiscard]] bool marks_training_checkpoint() const {
    auto const mark = metadata_.find(training_key);
    if (mark == metadata_.end()) return false;
    auto const progress = detail::parse_json(mark->second);
    bool const ours = progress.is_object() && progress.contains("epoch") && progress["epoch"].is_number() &&
                      progress.contains("optimizer") && progress["optimizer"].is_string();
    bool const raw = holds(raw_prefix), ema = holds(ema_prefix);
    if (ours && raw && ema) return true;
    if (raw && ema)
      throw file_error{path(),
                       "holds tensors 'raw/...' and 'ema/...' as a training checkpoint does, but its metadata "
                       "'training' are not one's (no epoch and optimizer)"};
    if (ours && (raw || ema))
      throw file_error{path(), "is marked as a training checkpoint, but holds no tensor '" +
                                   std::string{raw ? ema_prefix : raw_prefix} + "...'"};
    return false;
  }
  /// Of a training checkpoint, the tensors of one set under the model's own names.
  void choose_training_weights(weights which) {
    std::string_view const prefix = which == weights::raw ? raw_prefix : ema_prefix;
    auto const known = [](stored_tensor const& t) {
      std::string_view const name = t.name;
      return name.starts_with(raw_prefix) || name.starts_with(ema_prefix) || name.starts_with("momentum/") ||
             name.starts_with("second/");
    };
    for (stored_tensor const& t : tensors_)
      if (!known(t)) notices_.push_back("'" + t.name + "' is no part of a training checkpoint and left out");
    std::erase_if(tensors_, [&](stored_tensor const& t) { return !t.name.starts_with(prefix); });
    for (stored_tensor& t : tensors_) t.name.erase(0, prefix.size());
    averaged_ = which != weights::raw;
  }
  /// Of any other file, the set that names tell apart.
  void choose_named_weights(weights which) {
    detail::weight_sets sets = detail::split_by_name(std::move(tensors_));
    notices_ = std::move(sets.notices);
    bool const two = !sets.averages.empty();
    if (which == weights::ema && !two)
      throw file_error{path(), "is a safetensors file, which holds one set of weights; EMA weights cannot be chosen"};
    averaged_ = two && which != weights::raw;
    if (averaged_ && !sets.problem.empty())
      throw file_error{path(), "holds a second set of weights, '" + sets.where +
                                   "...', that cannot be used as averages: " + sets.problem +
                                   "; the raw weights (--raw) can be read"};
    if (!averaged_ && two && sets.raw.empty()) throw file_error{path(), "holds averaged weights only"};
    if (!averaged_ && !sets.problem.empty()) notices_.push_back("'" + sets.where + "...' is left out: " + sets.problem);
    tensors_ = std::move(averaged_ ? sets.averages : sets.raw);
  }
  void index() {
    by_name_.resize(tensors_.size());
    std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
  }

  mapped_file file_;
  file_format format_ = file_format::safetensors;
  bool averaged_ = false, training_ = false, checksums_ = false;
  std::vector<stored_tensor> tensors_;
  std::vector<std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
  nlohmann::json hyper_parameters_;
  std::vector<std::string> notices_;
};

}  // namespace dm2
