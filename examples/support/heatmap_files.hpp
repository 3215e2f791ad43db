/// @file
/// Which file each picture's heat map goes to.
#pragma once

#include "command_line.hpp"

#include <cstddef>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace dm2::example {

/// `pattern` with the picture's name, less its extension, and `suffix` for each {}.
[[nodiscard]] inline std::filesystem::path fill_pattern(std::string pattern, std::filesystem::path const& picture,
                                                        std::string const& suffix) {
  std::string name = picture.stem().string();
  if (name == "." || name == "..") name.assign(name.size(), '_');  // of "..png", "...png": they would name folders
  std::string const stem = name + suffix;
  for (std::size_t at = 0; (at = pattern.find("{}", at)) != std::string::npos; at += stem.size())
    pattern.replace(at, 2, stem);
  return pattern;
}

/// A path that is the same for all ways to name a file; as it is where the system cannot tell.
[[nodiscard]] inline std::filesystem::path one_name(std::filesystem::path const& path) {
  std::error_code problem;
  auto const real = std::filesystem::weakly_canonical(path, problem);
  return problem ? path : real;
}

/// Makes the folders that the files are to be in. Throws usage_error where that cannot be.
inline void make_folders_of(std::string const& target, std::span<std::filesystem::path const> files) {
  for (std::filesystem::path const& file : files) {
    std::error_code problem;
    if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), problem);
    if (problem) throw usage_error{"--heatmap " + target + " cannot be made: " + problem.message()};
  }
}

/// A file for each picture: `target` itself for one; else `target` is a folder, or has {} where a picture's name goes.
/// The second picture of a name becomes name-2. Folders that are not there are made, but for one file.
///
/// Throws usage_error where `target` is called .png and there are several pictures, where a file is not called .png,
/// where one is a picture that is to be read, and where a folder cannot be made.
[[nodiscard]] inline std::vector<std::filesystem::path> heatmap_files(std::string const& target,
                                                                      std::span<std::filesystem::path const> pictures) {
  namespace fs = std::filesystem;
  std::error_code problem;
  bool const braces = target.find("{}") != std::string::npos;
  bool const folder = fs::is_directory(target, problem) || target.ends_with('/') ||
                      (!braces && pictures.size() > 1 && fs::path{target}.extension() != ".png");
  std::string const pattern = folder ? (fs::path{target} / "{}.png").string() : target;
  bool const one_each = folder || braces;
  if (!one_each && pictures.size() > 1)
    throw usage_error{"--heatmap " + target + " is one file, there are " + std::to_string(pictures.size()) +
                      " pictures: give a folder, or a name with {} in it"};
  std::set<fs::path> taken, inputs;
  for (auto const& picture : pictures) inputs.insert(one_name(picture));
  std::vector<fs::path> out;
  for (auto const& picture : pictures) {
    fs::path file = fill_pattern(pattern, picture, "");
    for (int n = 2; one_each && taken.contains(file); ++n)
      file = fill_pattern(pattern, picture, "-" + std::to_string(n));
    if (file.extension() != ".png") throw usage_error{"--heatmap " + file.string() + ": the name must end in .png"};
    if (inputs.contains(one_name(file)))
      throw usage_error{"--heatmap " + file.string() + " would overwrite a picture that is to be read"};
    taken.insert(file);
    out.push_back(std::move(file));
  }
  if (one_each) make_folders_of(target, out);
  return out;
}

}  // namespace dm2::example
