// Draws pictures a second against tokens from a table that dm2_cuda_cliff_bench wrote: a line a precision, both ways.
//
//   dm2_cliff_picture bench/results/h200/cliff_ff20f04.md docs/pictures/cliff_h200.png
#include <dm2/data/encode_png.hpp>
#include <dm2/train/log/chart.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dm2;
using row = std::vector<std::string>;
/// Points (tokens, pictures/s) of a line.
using points = std::vector<std::pair<double, double>>;

/// The cells of a line of a table; none of any other line.
row cells_of(std::string const& line) {
  row cells;
  if (line.empty() || line[0] != '|') return cells;
  std::istringstream text{line.substr(1)};
  for (std::string cell; std::getline(text, cell, '|');) {
    std::size_t const from = cell.find_first_not_of(' '), to = cell.find_last_not_of(' ');
    cells.push_back(from == std::string::npos ? "" : cell.substr(from, to - from + 1));
  }
  return cells;
}

/// A table of a file: its header's cells, and rows with as many.
struct table {
  std::string file;
  row header;
  std::vector<row> rows;

  explicit table(std::string path) : file{std::move(path)} {
    std::ifstream in{file};
    if (!in) throw std::runtime_error{file + ": cannot be read"};
    for (std::string line; std::getline(in, line);) {
      row cells = cells_of(line);
      if (std::find(cells.begin(), cells.end(), "inference /s") != cells.end() && header.empty())
        header = std::move(cells);
      else if (!header.empty() && cells.size() == header.size() && cells[0].find("---") != 0)
        rows.push_back(std::move(cells));
    }
    if (header.empty()) throw std::runtime_error{file + ": no table with a column \"inference /s\""};
  }
  /// Where a column is; the header's size where there is none.
  [[nodiscard]] std::size_t column(std::string const& name) const {
    return std::size_t(std::find(header.begin(), header.end(), name) - header.begin());
  }
  /// A positive number of a row.
  [[nodiscard]] double number(row const& r, std::string const& name) const {
    std::size_t const at = column(name);
    if (at == header.size()) throw std::runtime_error{file + ": no column \"" + name + "\""};
    char* end = nullptr;
    double const v = std::strtod(r[at].c_str(), &end);
    if (end == r[at].c_str() || *end != 0 || !(v > 0))
      throw std::runtime_error{file + ": \"" + r[at] + "\" in column \"" + name + "\" is no positive number"};
    return v;
  }
};

/// The lines of the rows whose picture size alone was changed, by name; tables without precisions are bf16's.
std::map<std::string, points> lines_of(table const& t) {
  std::map<std::string, points> lines;
  std::size_t const numbers = t.column("numbers");
  for (row const& r : t.rows) {
    if (r[0] != "pixels") continue;
    std::string const precision = numbers == t.header.size() ? "bf16" : r[numbers];
    double const tokens = t.number(r, "tokens");
    for (std::string const way : {"inference", "training"})
      if (std::size_t const at = t.column(way + " /s"); at == r.size() || r[at] != "-")
        lines[precision + ", " + way].emplace_back(tokens, t.number(r, way + " /s"));
  }
  if (lines.empty()) throw std::runtime_error{t.file + ": no row of \"pixels\""};
  for (auto& [name, line] : lines) std::sort(line.begin(), line.end());
  return lines;
}

chart_curve curve_of(std::string const& name, points const& line) {
  chart_curve c{name, {}, {}};
  for (auto const& [x, y] : line) c.x.push_back(x), c.y.push_back(y);
  return c;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || argv[1][0] == '-') {
    std::fputs("dm2_cliff_picture TABLE.md FILE.png\n", stderr);
    return 2;
  }
  try {
    chart c{.title = "Tiny at other picture sizes, as many tokens a batch",
            .x_title = "tokens",
            .panels = {{.title = "pictures/s", .curves = {}, .log_y = true}},
            .panel_height = 700,
            .log_x = true};
    auto& curves = c.panels[0].curves;
    auto const lines = lines_of(table{argv[1]});
    for (auto const& [name, line] : lines) curves.push_back(curve_of(name, line));
    // what the first line would be at one time a token
    points const& first = lines.begin()->second;
    double const tokens = first.front().second * first.front().first;
    curves.push_back(curve_of("as many tokens/s at every size", {{first.front().first, first.front().second},
                                                                 {first.back().first, tokens / first.back().first}}));
    write_png(argv[2], draw_chart(c));
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "dm2_cliff_picture: %s\n", problem.what());
    return 1;
  }
}
