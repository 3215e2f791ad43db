/// @file
/// Where a training run keeps its checkpoints.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/synced_folder.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// The names of a folder's entries, sorted. Throws file_error where it cannot be listed.
[[nodiscard]] inline std::vector<std::string> names_in(std::filesystem::path const& folder) {
  std::vector<std::string> names;
  std::error_code problem;
  for (std::filesystem::directory_iterator at{folder, problem}, end; !problem && at != end; at.increment(problem))
    names.push_back(at->path().filename().string());
  if (problem) throw file_error{folder, "cannot be listed: " + problem.message()};
  std::sort(names.begin(), names.end());
  return names;
}

/// Whether a name is epoch-NNNN.safetensors, with four digits or more.
[[nodiscard]] inline bool is_epoch_checkpoint(std::string_view name) noexcept {
  constexpr std::string_view front = "epoch-", back = ".safetensors";
  if (!name.starts_with(front) || !name.ends_with(back) || name.size() < front.size() + 4 + back.size()) return false;
  name = name.substr(front.size(), name.size() - front.size() - back.size());
  return name.find_first_not_of("0123456789") == name.npos;
}

/// Whether a run writes checkpoints of that name.
[[nodiscard]] inline bool is_run_checkpoint(std::string_view name) noexcept {
  return name == "last.safetensors" || name == "best.safetensors" || is_epoch_checkpoint(name);
}

/// Whether a run writes files of that name: checkpoints, and the logs of train/log.
[[nodiscard]] inline bool is_run_file(std::string_view name) noexcept {
  return is_run_checkpoint(name) || name == "steps.csv" || name == "epochs.csv" || name == "profile.csv" ||
         name == "data_profile.csv" || name == "data_profile.png" || name.starts_with("events.out.tfevents.");
}

}  // namespace detail

/// A run's folder: last.safetensors, best.safetensors, and epoch-NNNN.safetensors of the latest epochs, written after
/// NNNN of them. Files of other names are left alone.
class run_folder {
 public:
  /// No checkpoints at all.
  run_folder() = default;
  /// Makes the folder. `history`: how many epochs' checkpoints are kept beside the last and the best.
  /// Folders that are new are on the disk then. Throws file_error if they cannot be made.
  explicit run_folder(std::filesystem::path root, int history = 0) : root_{std::move(root)}, history_{history} {
    detail::make_synced_folders(root_);
  }

  /// The same paths of a folder that another process makes; nothing is made here.
  [[nodiscard]] static run_folder seen(std::filesystem::path root, int history) {
    run_folder out;
    out.root_ = std::move(root);
    out.history_ = history;
    return out;
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

  /// The files that may be checkpoints, whatever their names: every visible *.safetensors, the last one first, then
  /// in the order of their names. Throws file_error where the folder cannot be listed.
  [[nodiscard]] std::vector<std::filesystem::path> checkpoints() const {
    std::vector<std::filesystem::path> out;
    for (std::string const& name : names())
      if (name.front() != '.' && name.ends_with(".safetensors"))
        out.insert(name == "last.safetensors" ? out.begin() : out.end(), root_ / name);
    return out;
  }
  /// The first file that tells of a run, a log or a checkpoint of whatever name; an empty path where there is none.
  [[nodiscard]] std::filesystem::path trace() const {
    auto const found = checkpoints();
    if (!found.empty()) return found.front();
    for (std::string const& name : names())
      if (detail::is_run_file(name)) return root_ / name;
    return {};
  }

  /// Removes every epoch's checkpoint but those of the history that ends after `newest` epochs.
  void keep_history(int newest) const {
    if (history_ <= 0) return;
    std::vector<std::string> kept;
    for (int e = std::max(1, newest - history_ + 1); e <= newest; ++e) kept.push_back(of_epoch(e).filename().string());
    remove_where([&](std::string const& name) {
      return detail::is_epoch_checkpoint(name) && std::find(kept.begin(), kept.end(), name) == kept.end();
    });
  }

  /// Removes parts of checkpoints that a kill left behind. Only where no other process writes into the
  /// folder.
  void remove_unfinished() const {
    remove_where([](std::string const& name) {
      return name.ends_with(".tmp") && name.front() == '.' &&
             (name.starts_with(".last.safetensors.") || name.starts_with(".best.safetensors.") ||
              (name.starts_with(".epoch-") && name.find(".safetensors.") != name.npos));
    });
  }
  /// Removes every checkpoint, for a run that begins anew. run_replacement does so with a way back.
  void remove_checkpoints() const { remove_where(detail::is_run_checkpoint); }

 private:
  [[nodiscard]] std::filesystem::path in(std::string const& name) const { return root_.empty() ? root_ : root_ / name; }
  [[nodiscard]] std::vector<std::string> names() const {
    return root_.empty() ? std::vector<std::string>{} : detail::names_in(root_);
  }

  template <class F>
  void remove_where(F const& unwanted) const {
    std::error_code ignored;
    for (std::string const& name : names())
      if (unwanted(name)) std::filesystem::remove(root_ / name, ignored);
  }

  std::filesystem::path root_;
  int history_ = 0;
};

}  // namespace dm2
