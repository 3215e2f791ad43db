/// @file
/// A run's folder as train uses it: locked, and never emptied before there is something new in it.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/run_lock.hpp>
#include <dm2/train/run_replacement.hpp>
#include <dm2/train/training_file.hpp>

#include "command_line.hpp"
#include "text.hpp"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2::example {

/// A checkpoint to go on from.
struct resume_point {
  std::filesystem::path file;
  checkpoint_head head;

  /// "r/last.safetensors (epoch 3)", "r/last.safetensors (epoch 3, batch 20)": where it goes on, from 1.
  [[nodiscard]] std::string text() const {
    return file.string() + " (goes on in epoch " + std::to_string(head.epoch + 1) +
           (head.next_batch > 0 ? ", micro-batch " + std::to_string(head.next_batch + 1) : "") + ")";
  }
};

/// The training checkpoints among some files, the furthest on first; of equals, the first of the list. What cannot be
/// read, or is none, is told to `passed_over` with its error.
template <class F>
[[nodiscard]] std::vector<resume_point> readable_checkpoints(std::vector<std::filesystem::path> const& files,
                                                             F const& passed_over) {
  std::vector<resume_point> out;
  for (auto const& file : files) {
    try {
      out.push_back({file, read_checkpoint_head(file)});
    } catch (file_error const& problem) {
      passed_over(problem);
    }
  }
  std::stable_sort(out.begin(), out.end(), [](auto const& a, auto const& b) { return a.head.after(b.head); });
  return out;
}

/// Reads the whole of a checkpoint and holds it against its checksums; says so where it has none, as older ones.
/// Throws file_error where it is damaged.
inline void require_undamaged(std::filesystem::path const& file) {
  if (!verify_checkpoint(file))
    std::cerr << "train: note: " << printable(file.string())
              << " was written without checksums: whether it is damaged cannot be told\n";
}

/// The checkpoint that --resume FILE names. Throws file_error where it cannot be read or is damaged, with those beside
/// it that can be gone on with.
[[nodiscard]] inline resume_point named_checkpoint(std::filesystem::path const& file) {
  try {
    resume_point named{file, read_checkpoint_head(file)};
    require_undamaged(file);
    return named;
  } catch (file_error const& problem) {
    std::string text = std::string{problem.what()}.substr(problem.path().string().size() + 2);
    std::filesystem::path const folder = file.has_parent_path() ? file.parent_path() : ".";
    std::vector<std::filesystem::path> beside;
    std::error_code ignored;
    if (std::filesystem::is_directory(folder, ignored)) beside = run_folder{folder}.checkpoints();
    std::string found;
    for (resume_point const& one : readable_checkpoints(beside, [](auto const&) {})) {
      if (std::filesystem::equivalent(one.file, file, ignored)) continue;
      try {
        (void)verify_checkpoint(one.file);
        found += "\n  " + one.text();
      } catch (file_error const&) {  // damaged as well
      }
    }
    throw file_error{file, text + (found.empty() ? "" : "\nThere are, and can be read:" + found)};
  }
}

/// Owns the run's folder while a process trains in it. Unless a checkpoint was written, its destructor leaves what was
/// there before: the old run that was to be replaced, or no folder at all.
class training_folder {
 public:
  /// Makes the folder where it is missing, takes its lock, and puts right what a killed process left.
  ///
  /// Throws usage_error where another process writes into it, file_error where it cannot be made or listed.
  training_folder(std::filesystem::path const& root, int history) : made_{missing(root)} {
    try {
      files_ = run_folder{root, history};
      lock_.emplace(root);
      settle();
    } catch (folder_in_use const& problem) {
      remove_empty();
      throw usage_error{std::string{problem.what()} + "\n--experiment names another folder"};
    } catch (...) {
      remove_empty();
      throw;
    }
  }
  /// As another process of the run sees the folder: the first one has it, and alone makes, locks and changes it.
  struct seen_by_another {};
  training_folder(seen_by_another, std::filesystem::path const& root, int history)
      : files_{run_folder::seen(root, history)}, written_{true} {}
  training_folder(training_folder const&) = delete;
  training_folder& operator=(training_folder const&) = delete;
  ~training_folder() {
    try {
      if (!written_) restore();
    } catch (std::exception const& problem) {
      std::cerr << "train: " << printable(problem.what()) << "; the next start tries again\n";
    }
    remove_empty();
  }

  /// The checkpoints.
  [[nodiscard]] run_folder const& files() const noexcept { return files_; }

  /// The checkpoint that is furthest on, of those that can be read and are whole; says which are passed over. Nothing
  /// where the folder holds nothing of a run.
  ///
  /// Throws file_error where it holds something, and no checkpoint that can be read, unless `overwrite` is set.
  [[nodiscard]] std::optional<resume_point> newest(bool overwrite) const {
    auto const trace = files_.trace();
    auto const pass_over = [](file_error const& problem) {
      std::cerr << "train: passed over " << printable(problem.what()) << '\n';
    };
    for (resume_point& one : readable_checkpoints(files_.checkpoints(), pass_over)) {
      try {
        require_undamaged(one.file);
        return std::move(one);
      } catch (file_error const& problem) {
        pass_over(problem);
      }
    }
    if (trace.empty() || overwrite) return std::nullopt;
    throw file_error{files_.root(), "holds a run (" + trace.filename().string() +
                                        ") but no checkpoint that can be read; --overwrite begins anew, --experiment "
                                        "names another folder"};
  }

  /// Makes room for a run that begins anew, or that goes on with the checkpoint `from` of another folder, and keeps the
  /// old one aside. Throws usage_error where there is one and `overwrite` is not set.
  void begin(bool overwrite) {
    require_free(overwrite);
    fresh_ = true;
    if (files_.trace().empty()) return;
    run_replacement moved{files_};
    moved.begin();
    replacement_ = std::move(moved);
  }
  /// Throws as begin does, and moves nothing.
  void require_free(bool overwrite) const {
    auto const trace = files_.trace();
    if (trace.empty() || overwrite) return;
    throw usage_error{files_.root().string() + " holds a run (" + trace.filename().string() +
                      "); --resume auto goes on with it, --overwrite begins anew, --experiment names another"};
  }
  /// Makes room for a run that goes on with a checkpoint of this folder: those that are further on move into the folder
  /// `later`, which nothing here touches again.
  void go_back(resume_point const& from) const {
    std::vector<std::filesystem::path> later;
    for (resume_point const& other : readable_checkpoints(files_.checkpoints(), [](auto const&) {}))
      if (other.head.after(from.head)) later.push_back(other.file);
    if (later.empty()) return;
    std::filesystem::path const to = unused("later");
    std::error_code problem;
    std::filesystem::create_directory(to, problem);
    for (auto const& file : later)
      if (!problem) std::filesystem::rename(file, to / file.filename(), problem);
    for (char const* log : {"steps.csv", "epochs.csv", "profile.csv", "data_profile.csv"})
      if (!problem && std::filesystem::exists(files_.root() / log, problem))
        std::filesystem::copy_file(files_.root() / log, to / log, problem);
    if (problem) throw file_error{to, "cannot take the checkpoints that are further on: " + problem.message()};
    std::cout << "goes back  what is further on than " << printable(from.text()) << " is in " << printable(to.string())
              << '\n';
  }

  /// Whether a run with this checkpoint goes on where it was: the checkpoint is one of the folder's.
  [[nodiscard]] bool goes_on_with(std::optional<resume_point> const& from) const {
    if (!from) return false;
    std::error_code ignored;
    return std::filesystem::equivalent(from->file.has_parent_path() ? from->file.parent_path() : ".", files_.root(),
                                       ignored);
  }
  /// Whether `path` is the folder or in it.
  [[nodiscard]] bool contains(std::filesystem::path const& path) const {
    std::error_code problem;
    auto const root = std::filesystem::weakly_canonical(files_.root(), problem);
    auto const real = problem ? path : std::filesystem::weakly_canonical(path, problem);
    return !problem && std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
  }

  /// A step was done: the logs say something.
  void step_done() noexcept { trained_ = true; }
  /// A checkpoint is on the disk: what was there before is not needed any more.
  void checkpoint_written() {
    if (std::exchange(written_, true) || !replacement_) return;
    try {
      replacement_->finish();
    } catch (file_error const& problem) {
      std::cerr << "train: " << printable(problem.what()) << "; the next start tries again\n";
    }
  }

 private:
  /// The folders that have to be made for `root`, the innermost first.
  static std::vector<std::filesystem::path> missing(std::filesystem::path root) {
    std::vector<std::filesystem::path> out;
    std::error_code ignored;
    for (; !root.empty() && !std::filesystem::exists(root, ignored); root = root.parent_path()) out.push_back(root);
    return out;
  }
  void settle() {
    if (!lock_->held())
      std::cerr << "train: " << printable(files_.root().string())
                << " is on a file system without locks: nothing keeps a second run out of it\n";
    if (run_replacement{files_}.recover())
      std::cerr << "train: the run that was in " << printable(files_.root().string())
                << " is back: the one that was to replace it ended without a checkpoint\n";
    files_.remove_unfinished();
  }
  void restore() {
    if (replacement_) {
      replacement_->put_back();
      std::cerr << "train: no checkpoint was written; " << printable(files_.root().string())
                << " holds the run that it held before\n";
    } else if (fresh_ && !trained_) {
      for (std::string const& name : dm2::detail::names_in(files_.root()))
        if (dm2::detail::is_run_file(name)) std::filesystem::remove(files_.root() / name);
    }
  }
  /// Gives the lock back and removes the folders that this object made, where they are empty.
  void remove_empty() noexcept {
    lock_.reset();
    std::error_code ignored;
    for (auto const& folder : made_) std::filesystem::remove(folder, ignored);
  }
  /// `name`, or name-2 and so on: a path in the folder that does not exist.
  [[nodiscard]] std::filesystem::path unused(std::string const& name) const {
    std::filesystem::path out = files_.root() / name;
    std::error_code ignored;
    for (int n = 2; std::filesystem::exists(out, ignored); ++n) out = files_.root() / (name + "-" + std::to_string(n));
    return out;
  }

  std::vector<std::filesystem::path> made_;
  run_folder files_;
  std::optional<run_lock> lock_;
  std::optional<run_replacement> replacement_;
  bool fresh_ = false, trained_ = false, written_ = false;
};

}  // namespace dm2::example
