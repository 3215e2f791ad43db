/// @file
/// Tables of text with aligned columns.
#pragma once

#include "text.hpp"

#include <algorithm>
#include <cstddef>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::example {

/// A column: what stands over it, on which side its cells are aligned, and how wide it is.
struct column {
  std::string title;
  bool right = false;
  std::size_t width = 0;  ///< grown to the title's and to every cell that is given to fit
};

/// Prints rows as they come, under column widths that are set before.
class table {
 public:
  explicit table(std::vector<column> columns) : columns_{std::move(columns)} {
    for (std::size_t i = 0; i < columns_.size(); ++i) fit(i, columns_[i].title);
  }

  /// Makes column i wide enough for `cell`.
  void fit(std::size_t i, std::string_view cell) { columns_[i].width = std::max(columns_[i].width, text_width(cell)); }

  void print_titles(std::ostream& out) const {
    std::vector<std::string> titles;
    for (column const& c : columns_) titles.push_back(c.title);
    print_row(out, titles);
  }

  /// A wider cell moves the rest of its row to the right; a left-aligned last cell gets no spaces behind it.
  void print_row(std::ostream& out, std::vector<std::string> const& cells) const {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      std::size_t const width = text_width(cells[i]);
      std::string const space(columns_[i].width > width ? columns_[i].width - width : 0, ' ');
      line += (i == 0 ? "" : "  ") + (columns_[i].right ? space + cells[i] : cells[i] + space);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  }

 private:
  std::vector<column> columns_;
};

}  // namespace dm2::example
