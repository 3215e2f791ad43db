/// @file
/// The picture files under files and folders that a user names.
#pragma once

#include <dm2/core/error.hpp>

#include <algorithm>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace dm2 {

/// Whether a name ends in .jpg, .jpeg or .png, in any case.
[[nodiscard]] inline bool has_picture_extension(std::filesystem::path const& path) {
  std::string extension = path.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

namespace detail {

/// Whether a folder's entry is hidden, or what another system left: macOS's ._NAME.png and __MACOSX, a NAS's \@eaDir.
[[nodiscard]] inline bool is_passed_over(std::string const& name) {
  return name.starts_with('.') || name == "__MACOSX" || name == "@eaDir";
}

/// A walk that enters each folder once, by its real name: links may lead back up, or in many ways to one place.
struct folder_walk {
  std::set<std::filesystem::path> entered;   ///< real names
  std::vector<std::filesystem::path> links;  ///< to folders, not yet followed
  std::vector<std::filesystem::path> pictures;

  /// Everything under `folder` that can be reached without a link and is not hidden; links to folders are put aside.
  void enter(std::filesystem::path const& folder) {
    std::error_code problem;
    auto const real = std::filesystem::canonical(folder, problem);
    if (problem) throw file_error{folder, "cannot be resolved: " + problem.message()};
    if (!entered.insert(real).second) return;
    for (std::filesystem::directory_iterator at{folder, problem}, end; !problem && at != end; at.increment(problem)) {
      if (is_passed_over(at->path().filename().string())) continue;
      std::error_code ignored;  // a link to nothing counts as a file: reading it says what is wrong with it
      if (!at->is_directory(ignored)) {
        if (has_picture_extension(at->path())) pictures.push_back(at->path());
      } else if (at->is_symlink(ignored)) {
        links.push_back(at->path());
      } else {
        enter(at->path());
      }
    }
    if (problem) throw file_error{folder, "cannot be listed: " + problem.message()};
  }

  /// Everything under `folder`: first what is there itself, then what links lead to, in order of their names, so that
  /// the result does not depend on the order in which the system lists a folder.
  void run(std::filesystem::path const& folder) {
    enter(folder);
    while (!links.empty()) {
      auto const next = std::min_element(links.begin(), links.end());
      std::filesystem::path const link = *next;
      links.erase(next);
      enter(link);
    }
    std::sort(pictures.begin(), pictures.end());
  }
};

}  // namespace detail

/// The picture files that `paths` name: a file as it is, whatever its name; a folder as all files under it, however
/// deep, whose names end in .jpg, .jpeg or .png in any case, sorted by path. The order of `paths` is kept. In a folder,
/// files and folders whose names begin with a dot are passed over, and the folders __MACOSX and \@eaDir.
///
/// Links to files and folders are followed, and each folder is walked once for each of `paths`, however many links lead
/// to it, so loops of links end.
///
/// Throws file_error naming the path that does not exist, cannot be listed, or is a folder with no picture in it.
[[nodiscard]] inline std::vector<std::filesystem::path> list_images(std::span<std::filesystem::path const> paths) {
  std::vector<std::filesystem::path> out;
  for (std::filesystem::path const& path : paths) {
    std::error_code problem;
    auto const status = std::filesystem::status(path, problem);
    if (status.type() == std::filesystem::file_type::not_found) throw file_error{path, "does not exist"};
    if (problem) throw file_error{path, "cannot be examined: " + problem.message()};
    if (!std::filesystem::is_directory(status)) {
      out.push_back(path);
      continue;
    }
    detail::folder_walk walk;
    walk.run(path);
    if (walk.pictures.empty()) throw file_error{path, "has no .jpg, .jpeg or .png file in it"};
    out.insert(out.end(), walk.pictures.begin(), walk.pictures.end());
  }
  return out;
}

/// The same for one path.
[[nodiscard]] inline std::vector<std::filesystem::path> list_images(std::filesystem::path const& path) {
  return list_images(std::span{&path, 1});
}

}  // namespace dm2
