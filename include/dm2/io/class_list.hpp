/// @file
/// Class names from a text file.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/describe_file.hpp>
#include <dm2/io/mapped_file.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {
namespace detail {

/// Whether text begins with a WordNet number, n and eight digits, that ends there or at a space or tab.
[[nodiscard]] constexpr bool begins_with_synset(std::string_view text) noexcept {
  constexpr std::size_t length = 9;
  if (text.size() < length || text[0] != 'n') return false;
  for (char const c : text.substr(1, length - 1))
    if (c < '0' || c > '9') return false;
  return text.size() == length || text[length] == ' ' || text[length] == '\t';
}

/// The text without spaces, tabs and carriage returns at both ends.
[[nodiscard]] constexpr std::string_view trimmed(std::string_view text) noexcept {
  constexpr std::string_view blank = " \t\r";
  std::size_t const first = text.find_first_not_of(blank);
  return first == std::string_view::npos ? std::string_view{}
                                         : text.substr(first, text.find_last_not_of(blank) - first + 1);
}

/// The lines, trimmed, without a byte order mark in front and empty lines at the end.
[[nodiscard]] inline std::vector<std::string_view> text_lines(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    std::size_t const end = std::min(text.find('\n'), text.size());
    lines.push_back(trimmed(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

inline bool has_control_character(std::string_view text) noexcept {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

}  // namespace detail

/// The names in a text file, one a line, in the order of the classes' numbers.
///
/// Where every line begins with a WordNet number, as in ImageNet's lists, the rest of the line is the name
/// ("n01440764 tench, Tinca tinca", with spaces or a tab between); a line of the number alone keeps it as the name.
/// Spaces around a name, a byte order mark and empty lines at the end are ignored.
///
/// Throws   file_error naming the line that is empty, is not UTF-8, or has a control character; where there is no name,
///          or more than a million lines; where the file cannot be read.
[[nodiscard]] inline std::vector<std::string> read_class_list(std::filesystem::path const& path) {
  constexpr std::size_t most = 1'000'000, longest = 1000;
  mapped_file const file{path, std::size_t{1} << 30};
  std::string_view const text = detail::as_text(file.bytes());
  // before a line is stored: 16 bytes each, and lines may be empty
  if (text.size() > most * longest || std::size_t(std::count(text.begin(), text.end(), '\n')) > most)
    throw file_error{path, "is too large for a list of class names"};
  if (!detail::signed_format(text).empty() || detail::begins_like(text, "<!doctype") ||
      detail::begins_like(text, "<html"))
    throw file_error{path, "is no list of class names" + detail::described(file.bytes())};
  auto const lines = detail::text_lines(text);
  if (lines.empty()) throw file_error{path, "holds no class name"};
  bool const numbered = std::all_of(lines.begin(), lines.end(), detail::begins_with_synset);
  std::vector<std::string> names;
  names.reserve(lines.size());
  for (std::string_view line : lines) {
    std::string const where = "line " + std::to_string(names.size() + 1);
    if (line.empty()) throw file_error{path, where + " is empty, a class name was expected"};
    if (line.size() > longest) throw file_error{path, where + " is longer than 1000 bytes"};
    if (!detail::is_utf8(line)) throw file_error{path, where + " is not UTF-8 text"};
    if (std::string_view const rest = numbered ? detail::trimmed(line.substr(9)) : line; !rest.empty()) line = rest;
    if (detail::has_control_character(line)) throw file_error{path, where + " has a control character in it"};
    names.emplace_back(line);
  }
  return names;
}

/// The same; throws file_error also where there are not exactly `classes` names.
[[nodiscard]] inline std::vector<std::string> read_class_list(std::filesystem::path const& path, std::size_t classes) {
  std::vector<std::string> names = read_class_list(path);
  if (names.size() != classes)
    throw file_error{path, "has " + std::to_string(names.size()) + " class names, the model has " +
                               std::to_string(classes) + " classes"};
  return names;
}

}  // namespace dm2
