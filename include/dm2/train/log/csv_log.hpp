/// @file
/// The numbers of a run as a CSV file.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/train/log/append_file.hpp>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {

namespace detail {

/// Throws shape_error where the name would need quotes in a CSV file, or is empty.
inline void require_column_name(std::string_view name) {
  if (name.empty() || name.find_first_of(",\"\r\n") != name.npos)
    throw shape_error{"csv_log: column name '" + std::string{name} +
                      "' must not be empty or hold a comma, a quote or a line break"};
}

/// The whole number at the beginning of a row, if a comma or the end follows it.
[[nodiscard]] inline std::optional<std::int64_t> first_cell(std::string_view row) {
  std::int64_t step = 0;
  auto const [end, problem] = std::from_chars(row.data(), row.data() + row.size(), step);
  if (problem != std::errc{} || (end != row.data() + row.size() && *end != ',')) return std::nullopt;
  return step;
}

/// How many bytes of the file are `header` and the whole rows after it up to `last_step`. A row that no line break
/// ends was cut off by a kill, and ends the good part, as does one whose step cannot be read.
[[nodiscard]] inline std::uintmax_t bytes_to_keep(std::filesystem::path const& path, std::string const& header,
                                                  std::int64_t last_step) {
  std::ifstream in{path, std::ios::binary};
  if (!in) throw file_error{path, "cannot be read"};
  std::string line;
  bool const there = bool(std::getline(in, line));
  if (in.bad()) throw file_error{path, "cannot be read"};  // and is not begun anew, as if it were empty
  if (!there || in.eof()) return 0;
  if (line != header)
    throw file_error{path, "its columns are '" + line.substr(0, 200) + "', this run writes '" + header + "'"};
  std::uintmax_t kept = line.size() + 1;
  while (std::getline(in, line) && !in.eof()) {
    auto const step = first_cell(line);
    if (!step || *step > last_step) break;
    kept += line.size() + 1;
  }
  if (in.bad()) throw file_error{path, "cannot be read"};
  return kept;
}

}  // namespace detail

/// Rows of numbers under a header, the first column a step that grows from row to row. Every row is with the operating
/// system when append returns. A number is written in the shortest form that reads back as the same double; one that is
/// absent is an empty cell, and what is not finite is nan, inf or -inf.
class csv_log {
 public:
  /// Opens `path` for the columns `step_name`, `names`.
  ///
  /// Without `resume_after` the log begins anew, and replaces a file of that name. With it, rows up to that step stay,
  /// later ones and a row that a kill cut off are removed, so that a run resumed at resume_after + 1 leaves the same
  /// file as one that was never stopped; a missing file is created.
  ///
  /// Throws shape_error for a name that is empty or would need quotes; file_error if the file cannot be read or
  /// written, or has other columns.
  csv_log(std::filesystem::path const& path, std::string const& step_name, std::vector<std::string> const& names,
          std::optional<std::int64_t> resume_after = std::nullopt)
      : columns_{names.size()} {
    std::string header = step_name;
    detail::require_column_name(step_name);
    for (std::string const& name : names) {
      detail::require_column_name(name);
      header += "," + name;
    }
    bool const begun = cut(path, header, resume_after);
    file_.emplace(path, append_file::mode::extend);
    if (!begun) file_->write(header + "\n");
  }

  /// Appends a row: one value a column after the step's. Throws shape_error if their number is wrong, file_error if the
  /// file cannot be written.
  void append(std::int64_t step, std::span<std::optional<double> const> values) {
    require_extent("csv_log: values of a row", values.size(), columns_);
    std::string row = std::to_string(step);
    for (auto const& value : values) {
      row += ',';
      if (value) row += text(*value);
    }
    file_->write(row + "\n");
  }
  /// @copydoc append(std::int64_t, std::span<std::optional<double> const>)
  void append(std::int64_t step, std::initializer_list<std::optional<double>> values) {
    append(step, std::span{values.begin(), values.size()});
  }

 private:
  /// Leaves the rows that the new log goes on from; false if there are none.
  static bool cut(std::filesystem::path const& path, std::string const& header, std::optional<std::int64_t> last_step) {
    std::error_code problem;
    bool const there = std::filesystem::exists(path, problem);
    if (problem) throw file_error{path, "cannot be looked up: " + problem.message()};
    if (std::filesystem::is_symlink(path, problem)) throw file_error{path, "is a link: not written"};
    if (!there) return false;
    if (!std::filesystem::is_regular_file(path, problem)) throw file_error{path, "is not a regular file: not written"};
    auto const kept = last_step ? detail::bytes_to_keep(path, header, *last_step) : 0;
    std::filesystem::resize_file(path, kept, problem);
    if (problem) throw file_error{path, "cannot be cut: " + problem.message()};
    return kept > 0;
  }

  static std::string text(double value) {
    std::array<char, 32> chars;  // the longest is -2.2250738585072014e-308
    auto const [end, problem] = std::to_chars(chars.data(), chars.data() + chars.size(), value);
    return {chars.data(), end};
  }

  std::size_t columns_;
  std::optional<append_file> file_;
};

}  // namespace dm2
