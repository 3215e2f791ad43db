/// @file
/// Where a training run keeps its checkpoints.
#pragma once

#include <dm2/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {

/// A run's folder: last.safetensors, best.safetensors, and epoch-NNNN.safetensors of the latest epochs, written after
/// NNNN of them.
class run_folder {
 public:
  /// No checkpoints at all.
  run_folder() = default;
  /// Makes the folder. `history`: how many epochs' checkpoints are kept beside the last and the best.
  /// Throws file_error if it cannot be made.
  explicit run_folder(std::filesystem::path root, int history = 0) : root_{std::move(root)}, history_{history} {
    std::error_code problem;
    std::filesystem::create_directories(root_, problem);
    if (problem) throw file_error{root_, "cannot be made: " + problem.message()};
  }

  /// The folder; empty without one.
  [[nodiscard]] std::filesystem::path const& root() const { return root_; }
  /// The checkpoint that a run goes on from. An empty path without a folder.
  [[nodiscard]] std::filesystem::path last() const { return in("last.safetensors"); }
  /// The checkpoint of the best epoch. An empty path without a folder.
  [[nodiscard]] std::filesystem::path best() const { return in("best.safetensors"); }
  /// After so many epochs. Empty without a history.
  [[nodiscard]] std::filesystem::path of_epoch(int epochs) const {
    if (history_ <= 0) return {};
    std::string const number = std::to_string(epochs);
    return in("epoch-" + std::string(number.size() < 4 ? 4 - number.size() : 0, '0') + number + ".safetensors");
  }

  /// Removes every epoch's checkpoint but those of the history that ends after `newest` epochs.
  void keep_history(int newest) const {
    if (history_ <= 0) return;
    std::vector<std::string> kept;
    for (int e = std::max(1, newest - history_ + 1); e <= newest; ++e) kept.push_back(of_epoch(e).filename().string());
    remove_where([&](std::string const& name) {
      return is_epoch(name) && std::find(kept.begin(), kept.end(), name) == kept.end();
    });
  }

  /// Removes what a kill left of checkpoints that were being written. Only where no other process writes into the
  /// folder.
  void remove_unfinished() const {
    remove_where([](std::string const& name) {
      return name.ends_with(".tmp") && name.front() == '.' &&
             (name.starts_with(".last.safetensors.") || name.starts_with(".best.safetensors.") ||
              (name.starts_with(".epoch-") && name.find(".safetensors.") != name.npos));
    });
  }
  /// Removes every checkpoint, for a run that begins anew.
  void remove_checkpoints() const {
    remove_where([](std::string const& name) {
      return name == "last.safetensors" || name == "best.safetensors" || is_epoch(name);
    });
  }

 private:
  [[nodiscard]] std::filesystem::path in(std::string const& name) const { return root_.empty() ? root_ : root_ / name; }

  static bool is_epoch(std::string const& name) { return name.starts_with("epoch-") && name.ends_with(".safetensors"); }
  template <class F>
  void remove_where(F const& unwanted) const {
    if (root_.empty()) return;
    std::vector<std::filesystem::path> files;  // listed first: a folder must not change under its iterator
    for (auto const& entry : std::filesystem::directory_iterator{root_})
      if (unwanted(entry.path().filename().string())) files.push_back(entry.path());
    std::error_code ignored;
    for (auto const& file : files) std::filesystem::remove(file, ignored);
  }

  std::filesystem::path root_;
  int history_ = 0;
};

}  // namespace dm2
