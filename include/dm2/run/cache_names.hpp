/// @file
/// The names of the files in the cache of compiled models.
#pragma once

#include <dm2/core/error.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace dm2::run::detail {

/// An entry is KEY.so, or KEY-1.so to KEY-7.so where other identities have the same hash.
inline constexpr std::string_view object_ending = ".so", lock_ending = ".lock", unfinished_ending = ".part";
inline constexpr int entries_a_key = 8;

[[nodiscard]] inline std::string lock_name(std::string const& key) { return key + std::string{lock_ending}; }

[[nodiscard]] inline std::string unfinished_name(std::string const& key) {
  return key + std::string{unfinished_ending};
}

[[nodiscard]] inline std::string object_name(std::string const& key, int slot) {
  return key + (slot == 0 ? "" : "-" + std::to_string(slot)) + std::string{object_ending};
}

[[nodiscard]] inline std::array<std::string, entries_a_key> object_names(std::string const& key) {
  std::array<std::string, entries_a_key> out;
  for (int slot = 0; slot < entries_a_key; ++slot) out[std::size_t(slot)] = object_name(key, slot);
  return out;
}

/// The sixteen digits that such a name begins with; empty for a name that is not the cache's.
[[nodiscard]] inline std::string key_of(std::string_view name, std::string_view ending) {
  std::string_view const digits = name.substr(0, 16);
  if (digits.size() < 16 || digits.find_first_not_of("0123456789abcdef") != digits.npos || !name.ends_with(ending))
    return {};
  std::string_view const between = name.substr(16, name.size() - 16 - std::min(ending.size(), name.size() - 16));
  bool const numbered = ending == object_ending && between.size() == 2 && between[0] == '-' && between[1] >= '1' &&
                        between[1] < '0' + entries_a_key;
  return between.empty() || numbered ? std::string{digits} : std::string{};
}

/// The names in a folder, in order; none for a folder that is not there. Throws file_error.
[[nodiscard]] inline std::vector<std::string> names_in(std::filesystem::path const& folder) {
  std::vector<std::string> out;
  std::error_code problem;
  std::filesystem::directory_iterator at{folder, problem};
  if (problem == std::errc::no_such_file_or_directory) return out;
  for (; !problem && at != std::filesystem::directory_iterator{}; at.increment(problem))
    out.push_back(at->path().filename().string());
  if (problem) throw file_error{folder, "cannot be listed: " + problem.message()};
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace dm2::run::detail
