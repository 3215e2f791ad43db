/// @file
/// Replaces an old run in a folder, with a way back.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/train/run_folder.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {

/// Moves a run's files aside until a new run in the folder has a checkpoint. They wait in a hidden folder inside it.
/// Where a process is killed, at any moment, recover() puts things right. Files that no run writes stay where they
/// are.
///
/// The moves are renames inside one folder, so they need no space and lose nothing half-way: files go to .replacing one
/// by one, and the whole of it is then renamed to .replaced.
///
/// For one process at a time (run_lock). Throws file_error from every member where the system refuses.
class run_replacement {
 public:
  /// For the run in this folder, which exists; nothing is moved yet.
  explicit run_replacement(run_folder folder) : folder_{std::move(folder)} {}

  /// Settles a replacement that a process left unfinished; returns whether the old run was brought back.
  bool recover() {
    std::error_code ignored;
    if (std::filesystem::exists(moving(), ignored)) return bring_back(), true;
    if (!std::filesystem::exists(aside(), ignored)) return false;
    auto const names = detail::names_in(folder_.root());
    if (std::any_of(names.begin(), names.end(), detail::is_run_checkpoint)) return finish(), false;
    return put_back(), true;
  }

  /// Moves the run's files aside. After an exception they are where they were.
  void begin() {
    std::error_code problem;
    std::filesystem::create_directory(moving(), problem);
    if (problem) throw file_error{moving(), "cannot be made: " + problem.message()};
    try {
      for (std::string const& name : detail::names_in(folder_.root()))
        if (detail::is_run_file(name)) rename(folder_.root() / name, moving() / name);
      rename(moving(), aside());
    } catch (file_error const&) {
      bring_back();
      throw;
    }
  }

  /// Removes the new run's files, and brings the old run back. Does nothing where none is aside.
  void put_back() {
    std::error_code ignored;
    if (!std::filesystem::exists(aside(), ignored)) return;
    for (std::string const& name : detail::names_in(folder_.root()))
      if (detail::is_run_file(name)) remove(folder_.root() / name);
    rename(aside(), moving());
    bring_back();
  }

  /// Removes the old run: the new one has a checkpoint.
  void finish() {
    for (std::string const& name : detail::names_in(aside())) remove(aside() / name);
    remove(aside());
  }

 private:
  [[nodiscard]] std::filesystem::path aside() const { return folder_.root() / ".replaced"; }
  [[nodiscard]] std::filesystem::path moving() const { return folder_.root() / ".replacing"; }

  void bring_back() {
    for (std::string const& name : detail::names_in(moving())) rename(moving() / name, folder_.root() / name);
    remove(moving());
  }
  static void rename(std::filesystem::path const& from, std::filesystem::path const& to) {
    std::error_code problem;
    std::filesystem::rename(from, to, problem);
    if (problem) throw file_error{from, "cannot be moved to " + to.string() + ": " + problem.message()};
  }
  static void remove(std::filesystem::path const& path) {
    std::error_code problem;
    std::filesystem::remove(path, problem);
    if (problem) throw file_error{path, "cannot be removed: " + problem.message()};
  }

  run_folder folder_;
};

}  // namespace dm2
