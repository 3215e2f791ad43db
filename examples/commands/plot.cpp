// Draws the curves of a run, from its CSV file. See README.md, or run with --help.
#include <dm2/core/error.hpp>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/train/log/chart.hpp>
#include <dm2/train/log/csv_table.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/text.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  std::vector<fs::path> inputs;
  fs::path output;
  std::string title, x;
  std::vector<std::string> panels, log, names;
  double smooth = 0;
  int width = 1200, height = 420, columns = 0;
  bool log_x = false;
};

constexpr char const* footer =
    R"(CSV is what train writes, or any table of numbers with a header line; of several, every column
has one curve a file. Cells that are empty or no number are left out. Without -y every column but
the first has a panel of its own.

Exit codes:
  0  done
  1  done, but what there is to say could not be printed
  2  the command line makes no sense, or names a column that a file does not have
  3  a file could not be read or written

Examples:
  plot run/epochs.csv -o run.png -y loss=train_loss,val_loss -y top1,top5 -y lr --log lr
  plot first/steps.csv second/steps.csv --names first,second -o both.png -y loss --smooth 0.01)";

void add_options(CLI::App& app, options& o) {
  app.add_option("CSV", o.inputs, "The files to read")->required()->type_name("");
  app.add_option("-o,--output", o.output, "The picture to write; one of that name is replaced")
      ->required()
      ->type_name("FILE.png");
  app.add_option("-y", o.panels, "Columns that share a panel, and its title; once for each panel")
      ->type_name("[TITLE=]COLUMN,...")
      ->allow_extra_args(false);
  app.add_option("-x", o.x, "The column along the x axis (the first)")->type_name("COLUMN");
  app.add_option("-t,--title", o.title, "A title for the whole picture")->type_name("TEXT");
  app.add_option("--names", o.names, "What to call the files in the legend (their names)")
      ->type_name("NAME,...")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--log", o.log, "Panels with a logarithmic y axis, by title")
      ->type_name("TITLE,...")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_flag("--log-x", o.log_x, "A logarithmic x axis");
  app.add_option("-s,--smooth", o.smooth, "Smooth over this part of the x axis, such as 0.01 (0: not)")
      ->check(CLI::Range(0.0, 0.5).description(""));
  app.add_option("--width", o.width, "Pixels of a panel (1200)")->check(number_from(300, 10000));
  app.add_option("--height", o.height, "Pixels of a panel (420)")->check(number_from(200, 10000));
  app.add_option("--columns", o.columns, "Panels beside each other (1 up to three panels, else 2)")
      ->check(number_from(1, 100));
}

[[nodiscard]] std::vector<std::string> split(std::string const& text) {
  std::vector<std::string> words;
  std::istringstream in{text};
  for (std::string word; std::getline(in, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

/// The files, what they are called, and the columns that are asked for.
struct run {
  options const& asked;
  std::vector<dm2::csv_table> tables;
  std::vector<std::string> names;

  explicit run(options const& o) : asked{o}, names{o.names} {
    if (!names.empty() && names.size() != o.inputs.size())
      throw usage_error{"--names has " + counted(names.size(), "name") + " for " + counted(o.inputs.size(), "file")};
    for (fs::path const& path : o.inputs) {
      tables.push_back(dm2::read_csv(path));
      if (tables.back().columns.front().empty())
        std::cerr << "plot: note: " << printable(path.string()) << " has no row below its header: nothing to draw\n";
      if (o.names.empty()) names.push_back(path.stem().string());
    }
  }

  [[nodiscard]] std::vector<double> const& column(std::size_t table, std::string const& name) const {
    std::size_t const at = tables[table].find(name);
    if (at == tables[table].columns.size())
      throw usage_error{asked.inputs[table].string() + " has no column '" + name +
                        "'; it has: " + joined(tables[table].names)};
    return tables[table].columns[at];
  }

  /// From "title=first,second", or without a title, which then is the columns.
  [[nodiscard]] dm2::chart_panel panel(std::string const& text) const {
    std::size_t const sign = text.find('=');
    auto const columns = split(sign == text.npos ? text : text.substr(sign + 1));
    if (columns.empty()) throw usage_error{"-y " + text + " names no column"};
    dm2::chart_panel out{sign == text.npos ? joined(columns) : text.substr(0, sign), {}, false};
    for (std::size_t t = 0; t < tables.size(); ++t)
      for (std::string const& name : columns) {
        auto const& x = asked.x.empty() ? tables[t].columns.front() : column(t, asked.x);
        std::string const label = tables.size() == 1 ? name : columns.size() == 1 ? names[t] : names[t] + " " + name;
        out.curves.push_back({label, x, column(t, name)});
      }
    out.log_y = std::find(asked.log.begin(), asked.log.end(), out.title) != asked.log.end();
    return out;
  }
};

/// The picture. Throws file_error, naming the files, for what the standard library throws.
[[nodiscard]] dm2::picture drawn(options const& o, dm2::chart const& c) {
  try {
    return dm2::draw_chart(c);
  } catch (std::logic_error const& problem) {
    throw dm2::file_error{o.inputs.front(), std::string{"cannot be drawn: "} + problem.what()};
  }
}

int plot(options const& o) {
  if (o.output.extension() != ".png") throw usage_error{"-o " + o.output.string() + ": the name must end in .png"};
  refuse_output_onto_input("-o", o.output, o.inputs);
  run const r{o};
  dm2::chart c{o.title, o.x.empty() ? r.tables.front().names.front() : o.x, {}, o.columns, o.width, o.height, o.smooth,
               o.log_x};
  for (std::string const& text : o.panels) c.panels.push_back(r.panel(text));
  if (o.panels.empty())
    for (std::string const& name : r.tables.front().names)
      if (name != c.x_title) c.panels.push_back(r.panel(name));
  if (c.panels.empty()) throw usage_error{o.inputs.front().string() + " has one column only"};
  for (std::string const& title : o.log)
    if (std::none_of(c.panels.begin(), c.panels.end(), [&](auto const& p) { return p.title == title; }))
      throw usage_error{"--log " + title + ": no panel has that title"};
  dm2::write_png(o.output, drawn(o, c));
  return exit_ok;
}

}  // namespace

extern "C" int plot_command(int argc, char** argv) {
  CLI::App app{"Draws the curves of a run, from its CSV file, as a PNG picture.", "plot"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return plot(o); });
}
