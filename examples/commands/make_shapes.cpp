// Draws a labelled picture set to train on: fourteen classes, clutter, token-label maps.
#include <dm2/core/error.hpp>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/worker_threads.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/shapes/draw.hpp"
#include "../support/shapes/label_map.hpp"
#include "../support/shapes/label_map_file.hpp"
#include "../support/shapes/linear_baseline.hpp"
#include "../support/text.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
namespace shapes = dm2::example::shapes;
using namespace dm2::example;

struct options {
  fs::path output;
  int train = 6000, val = 1000, size = 48, cells = 16, threads = 0;
  std::uint64_t seed = 0;
  bool linear = false, force = false;
};

constexpr char const* footer = R"(
Writes
  OUTPUT/train/CLASS/shape_00000.png   training pictures
  OUTPUT/val/CLASS/shape_00000.png     held-out pictures
  OUTPUT/labels/CLASS/shape_00000.pt   a token-label map for each training picture (torch, half, [2, 5, CELLS, CELLS])

The pictures are a function of --seed and --size. Position, size, rotation and colours are random and say nothing of the
class; the background is a gradient with waves, noise and fragments of other shapes.

Exit codes:
  0  done
  1  done, but what there is to say could not be printed
  2  the command line makes no sense, or OUTPUT holds a set and --force was not given
  3  a file could not be written

Examples:
  make_shapes --output shapes
  make_shapes --linear-baseline)";

void add_options(CLI::App& app, options& o) {
  app.option_defaults()->always_capture_default();
  app.add_option("-o,--output", o.output, "Folder to write")->type_name("DIR");
  app.add_option("--train", o.train, "Training pictures")->check(number_from(1, 10'000'000));
  app.add_option("--val", o.val, "Held-out pictures")->check(number_from(1, 10'000'000));
  app.add_option("--size", o.size, "Pixels a side")->check(number_from(16, 1024));
  app.add_option("--cells", o.cells, "Points a side of a label map; a divisor of --size")->check(number_from(1, 512));
  app.add_option("--seed", o.seed, "Another number gives other pictures");
  app.add_option("-j,--threads", o.threads, "Threads (0: one a processor)")->check(number_from(0, 1024));
  app.add_flag("--linear-baseline", o.linear, "Train a linear classifier on the pixels and say how good it gets");
  app.add_flag("-f,--force", o.force, "Write into a folder that holds a set; files of the same names are replaced");
}

void check(options const& o) {
  if (o.output.empty() && !o.linear) throw usage_error{"nothing to do: give --output or --linear-baseline"};
  if (o.size % o.cells != 0)
    throw usage_error{"--cells " + std::to_string(o.cells) + " does not divide --size " + std::to_string(o.size)};
  std::error_code ignored;
  for (char const* folder : {"train", "val", "labels"})
    if (!o.output.empty() && !o.force && fs::exists(o.output / folder, ignored))
      throw usage_error{(o.output / folder).string() + " exists; --force writes into it"};
}

/// Thousands of small files are written without waiting for the disk, as atomic_file would for each.
void write_file(fs::path const& path, std::span<std::byte const> bytes) {
  std::ofstream out{path, std::ios::binary | std::ios::trunc};
  out.write(reinterpret_cast<char const*>(bytes.data()), std::streamsize(bytes.size()));
  out.close();
  if (!out) throw dm2::file_error{path, "cannot be written"};
}

void make_folders(fs::path const& root) {
  for (char const* folder : {"train", "val", "labels"})
    for (shapes::shape_class const& c : shapes::classes) {
      std::error_code problem;
      fs::create_directories(root / folder / c.name, problem);
      if (problem) throw dm2::file_error{root / folder / c.name, "cannot be made: " + problem.message()};
    }
}

[[nodiscard]] std::string file_stem(std::size_t index) {
  std::string const number = std::to_string(index);
  return "shape_" + std::string(number.size() < 5 ? 5 - number.size() : 0, '0') + number;
}

void write_sample(options const& o, shapes::part part, std::size_t index) {
  bool const training = part == shapes::part::training;
  shapes::drawing const d = shapes::draw_sample(o.seed, part, index, o.size);
  fs::path const name = fs::path{shapes::classes[std::size_t(d.label)].name} / file_stem(index);
  write_file(o.output / (training ? "train" : "val") / (name.string() + ".png"), dm2::encode_png(d.image));
  if (!training) return;
  dm2::random_stream random{o.seed, 3, index};
  write_file(o.output / "labels" / (name.string() + ".pt"),
             shapes::encode_label_map(shapes::draw_label_map(d, o.cells, random)));
}

/// Says where --force left pictures of a larger set beside these.
void tell_of_others(options const& o) {
  for (auto const& [part, count] : {std::pair{"train", o.train}, std::pair{"val", o.val}}) {
    std::size_t const found = dm2::list_images(o.output / part).size();
    if (found > std::size_t(count))
      std::cerr << "make_shapes: " << printable((o.output / part).string()) << " holds "
                << counted(found - std::size_t(count), "picture") << " of an earlier set beside these\n";
  }
}

void write_set(options const& o) {
  make_folders(o.output);
  auto const train = std::size_t(o.train), all = train + std::size_t(o.val);
  dm2::for_each_index(all, o.threads, [&](std::size_t i) {
    if (i < train)
      write_sample(o, shapes::part::training, i);
    else
      write_sample(o, shapes::part::validation, i - train);
  });
  std::cout << o.train << " training and " << o.val << (o.val == 1 ? " held-out picture of " : " held-out pictures of ")
            << shapes::classes.size() << " classes in " << printable(o.output.string()) << '\n';
  tell_of_others(o);
}

[[nodiscard]] shapes::pixel_rows draw_rows(options const& o, shapes::part part, int count) {
  shapes::pixel_rows rows;
  rows.pixels.resize(count, 3 * Eigen::Index{o.size} * o.size);
  rows.labels.resize(std::size_t(count));
  dm2::for_each_index(std::size_t(count), o.threads, [&](std::size_t i) {
    shapes::drawing const d = shapes::draw_sample(o.seed, part, i, o.size);
    std::copy(d.image.pixels.begin(), d.image.pixels.end(), rows.pixels.row(Eigen::Index(i)).begin());
    rows.labels[i] = d.label;
  });
  return rows;
}

void report_linear(options const& o) {
  Eigen::setNbThreads(1);  // its products are too narrow to be worth a second thread
  auto const train = draw_rows(o, shapes::part::training, o.train), val = draw_rows(o, shapes::part::validation, o.val);
  auto const result = shapes::linear_baseline(train, val, o.seed);
  std::cout << "linear classifier on pixels: " << percent(float(result.train)) << " of the training pictures, at best "
            << percent(float(result.held_out))
            << " of the held-out ones; guessing: " << percent(1.0f / float(shapes::classes.size())) << '\n';
}

}  // namespace

extern "C" int make_shapes_command(int argc, char** argv) {
  CLI::App app{"Draws a labelled picture set to train on.", as_word ? "make-shapes" : "make_shapes"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] {
    check(o);
    if (!o.output.empty()) write_set(o);
    if (o.linear) report_linear(o);
    return int{exit_ok};
  });
}
