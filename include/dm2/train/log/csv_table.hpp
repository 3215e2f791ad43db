/// @file
/// Reads the numbers of a CSV file.
#pragma once

#include <dm2/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace dm2 {

/// The columns of a CSV file, all of one length; a NaN where a cell is empty or no number.
struct csv_table {
  std::vector<std::string> names;            ///< the header's cells
  std::vector<std::vector<double>> columns;  ///< [names][rows]

  /// The place of a column; columns.size() if none has that name.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    std::size_t i = 0;
    while (i < names.size() && names[i] != name) ++i;
    return i;
  }
};

namespace detail {

/// The cells between the commas, without the spaces and quotes around them.
[[nodiscard]] inline std::vector<std::string_view> csv_cells(std::string_view line) {
  std::vector<std::string_view> cells;
  for (std::size_t begin = 0; begin <= line.size();) {
    std::size_t const comma = std::min(line.find(',', begin), line.size());
    std::string_view cell = line.substr(begin, comma - begin);
    constexpr std::string_view around = " \t\r\"";
    cell.remove_prefix(std::min(cell.find_first_not_of(around), cell.size()));
    cell = cell.substr(0, cell.find_last_not_of(around) + 1);
    cells.push_back(cell);
    begin = comma + 1;
  }
  return cells;
}

[[nodiscard]] inline double csv_number(std::string_view cell) {
  double value = 0;
  auto const [end, problem] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  bool const whole = problem == std::errc{} && end == cell.data() + cell.size();
  return whole ? value : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace detail

/// Reads a CSV file whose first line names the columns: csv_log's, and those that timm and Lightning write. Cells that
/// hold commas are not supported.
///
/// Throws file_error if the file cannot be read, has no header, or has a row of another number of cells. A last row
/// that no line break ends may still be being written, and is left out where it is too short.
[[nodiscard]] inline csv_table read_csv(std::filesystem::path const& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw file_error{path, "is a folder, not a file"};
  errno = 0;
  std::ifstream in{path, std::ios::binary};
  std::string line;
  if (!in) throw file_error{path, "cannot be opened: " + std::generic_category().message(errno)};
  bool const there = bool(std::getline(in, line));
  if (in.bad()) throw file_error{path, "cannot be read"};
  if (!there || line.find_first_not_of(" \t\r") == line.npos) throw file_error{path, "has no header line"};
  csv_table table;
  for (std::string_view const name : detail::csv_cells(line)) table.names.emplace_back(name);
  table.columns.resize(table.names.size());
  for (std::size_t number = 2; std::getline(in, line); ++number) {
    if (line.empty() || line == "\r") continue;
    auto const cells = detail::csv_cells(line);
    if (in.eof() && cells.size() < table.names.size()) break;
    if (cells.size() != table.names.size())
      throw file_error{path, "line " + std::to_string(number) + " has " + std::to_string(cells.size()) +
                                 " cells, the header has " + std::to_string(table.names.size())};
    for (std::size_t i = 0; i < cells.size(); ++i) table.columns[i].push_back(detail::csv_number(cells[i]));
  }
  if (in.bad()) throw file_error{path, "cannot be read"};
  return table;
}

}  // namespace dm2
