// How often a model is right on labelled pictures. See README.md, or run with --help.
#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/train/evaluate.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "support/classifier.hpp"
#include "support/command_line.hpp"
#include "support/devices.hpp"
#include "support/models.hpp"
#include "support/picture_run.hpp"
#include "support/progress.hpp"
#include "support/text.hpp"
#include "support/weights_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  fs::path data, weights, per_class;
  std::string model, order;
  weights_flags from;
  bool json = false;
  int max_bad = 100;
  std::uint64_t max_pixels = dm2::max_sample_pixels;
  int max_scans = dm2::max_sample_scans;
  device_flags device;
};

constexpr char const* footer =
    R"(DIR holds val/CLASS/..., or the class folders themselves; a packed set may stand for either. Classes have the
numbers that the weights file names (class_names), so that they are those of training; a file without names numbers the
folders in the order that it says (class_order), or that --class-order says, else in natural order.

Exit codes:
  0  done
  1  some pictures could not be read and were left out, or output could not be written
  2  the command line makes no sense, or the pictures have other classes than the model
  3  a file is unreadable, damaged, or not what was asked for; weights or results are not finite numbers

Examples:
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt"
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt" --device cuda --precision fp16
  evaluate pictures -w runs/first/best.safetensors --per-class classes.csv)";

void add_options(CLI::App& app, options& o) {
  app.add_option("DIR,--data-dir,--data-path", o.data, "The pictures")->required()->type_name("FOLDER");
  app.add_option("-w,--weights,--checkpoint", o.weights, "Weights: .ckpt, .safetensors, or a run's checkpoint")
      ->required()
      ->type_name("FILE");
  app.add_option("-m,--model", o.model, "The model, where the file does not tell (" + joined(model_names()) + ")")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_names()).description(""));
  add_weights_flags(app, o.from);
  app.add_option("--class-order", o.order,
                 "How class folders are numbered, where the file has no names: natural (class2 before\n"
                 "class10) or plain, as torchvision does")
      ->type_name("NAME")
      ->check(CLI::IsMember({"natural", "plain"}).description(""));
  app.add_option("--per-class", o.per_class, "Write a row for each class")->type_name("FILE.csv");
  app.add_flag("--json", o.json, "Print one JSON object");
  add_device_options(app, o.device);
  app.add_option("-b,--batch-size", o.device.batch, "Pictures a batch (32; 256 on a GPU)")
      ->type_name("N")
      ->check(number_from(1, 1 << 20));
  app.add_option("--max-bad", o.max_bad, "Unreadable pictures after which to give up (100)")
      ->check(number_from(0, 1'000'000'000));
  app.add_option("--max-pixels", o.max_pixels, "Pixels of a picture above which it counts as unreadable (33554432)")
      ->check(number_from(1, 1'000'000'000));
  app.add_option("--max-scans", o.max_scans, "Scans of a JPEG above which it counts as unreadable (64)")
      ->check(number_from(1, 1'000'000));
}

/// The order in which folders are numbered for a file without class names. Says so where it matters and nobody has
/// told.
dm2::class_order chosen_order(options const& o, dm2::tensor_file const& file, fs::path const& root) {
  auto const stored = file.metadata().find(dm2::class_order_key);
  std::string const told = !o.order.empty() ? o.order : stored != file.metadata().end() ? stored->second : "";
  if (told == "plain") return dm2::class_order::plain;
  if (told != "natural" && dm2::class_folders(root) != dm2::class_folders(root, dm2::class_order::plain))
    std::cerr << "evaluate: the weights name no classes, and natural order and torchvision's differ for the folders of "
              << printable(root.string())
              << "; they are numbered in natural order, --class-order plain takes the other\n";
  return dm2::class_order::natural;
}

/// The pictures, with the classes in the order of the weights file.
dm2::dataset open_pictures(options const& o, dm2::tensor_file const& file, std::size_t classes) {
  std::error_code ignored;
  fs::path const root = fs::is_directory(o.data / "val", ignored) ? o.data / "val" : o.data;
  std::vector<std::string> const names = names_in_file("evaluate", file, classes);
  auto const order = names.empty() ? chosen_order(o, file, root) : dm2::class_order::natural;
  dm2::dataset set{root, {.classes = names, .order = order}};
  if (std::size_t(set.classes()) != classes)
    throw usage_error{root.string() + " has " + std::to_string(set.classes()) + " classes, the model " +
                      std::to_string(classes) + (names.empty() ? "; the weights file names none" : "")};
  return set;
}

void write_per_class(fs::path const& path, dm2::dataset const& set, std::span<dm2::evaluation const> results) {
  std::ostringstream out;
  out << "class,name,samples,top1,top5,loss\n";
  for (std::size_t c = 0; c < results.size(); ++c) {
    std::string name = without_controls(set.class_names()[c]);
    for (std::size_t at = 0; (at = name.find('"', at)) != name.npos; at += 2) name.insert(at, 1, '"');
    out << c << ",\"" << name << "\"," << results[c].samples;
    if (results[c].samples == 0)
      out << ",,,\n";
    else
      out << ',' << shortest(float(100 * results[c].accuracy())) << ',' << shortest(float(100 * results[c].accuracy5()))
          << ',' << shortest(float(results[c].loss())) << '\n';
  }
  std::string const text = out.str();
  dm2::atomic_file file{path};
  file.write(std::as_bytes(std::span{text}));
  file.commit();
}

/// Counts over the set, as they come.
struct counts {
  dm2::dataset const& set;
  std::size_t most_bad;
  std::vector<dm2::evaluation> classes;  ///< one for each
  std::size_t bad = 0;                   ///< pictures that could not be read
  progress_bar progress{set.size()};

  /// Throws std::runtime_error where there are too many, or where no picture is good.
  void leave_out(picture_entry const& entry) {
    progress.clear();
    std::cerr << "evaluate: left out " << printable(entry.error) << '\n';
    if (++bad <= most_bad && bad < set.size()) return;
    throw std::runtime_error{entry.error + "; " + std::to_string(bad) + " of " + std::to_string(set.size()) +
                             " pictures are bad so far, the limit is " + std::to_string(most_bad)};
  }

  void add(picture_batch const& batch, batch_results const& results) {
    std::size_t good = 0;
    for (std::size_t i = 0; i < batch.entries.size(); ++i) {
      if (!batch.entries[i].error.empty()) {
        leave_out(batch.entries[i]);
        continue;
      }
      int const label = set.label(batch.first + i);
      auto const logits = results.logits.subspan(good++ * classes.size(), classes.size());
      if (!std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }))
        throw dm2::file_error{batch.entries[i].path,
                              "the model's logits are not finite numbers; weights too large for the precision?"};
      classes[std::size_t(label)].add(logits, label);
    }
    progress.show(batch.first + batch.entries.size());
  }
};

/// What evaluate prints.
struct report {
  std::string model, device;
  dm2::evaluation total;
  std::size_t bad;
  run_speed speed;
};

void print(options const& o, report const& r) {
  if (o.json) {
    nlohmann::ordered_json const object{{"model", r.model},
                                        {"device", r.device},
                                        {"top1", 100 * r.total.accuracy()},
                                        {"top5", 100 * r.total.accuracy5()},
                                        {"loss", r.total.loss()},
                                        {"samples", r.total.samples},
                                        {"bad", r.bad},
                                        {"images_per_second", r.speed.rate()},
                                        {"waiting", r.speed.waiting_share()}};
    std::cout << object.dump() << '\n';
    return;
  }
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), "top-1 %.3f %%  top-5 %.3f %%  loss %.4f  ", 100 * r.total.accuracy(),
                100 * r.total.accuracy5(), r.total.loss());
  std::cout << r.model << "  " << text.data() << grouped(r.total.samples) << " pictures";
  if (r.bad != 0) std::cout << " (" << grouped(r.bad) << " left out)";
  std::snprintf(text.data(), text.size(), "  %.1f img/s  data %.0f %%  (%s)\n", r.speed.rate(),
                100 * r.speed.waiting_share(), r.device.c_str());
  std::cout << text.data();
}

int evaluate(options const& o) {
  refuse_output_onto_input("--per-class", o.per_class, std::array{o.weights});
  dm2::tensor_file const file{o.weights, o.from.chosen()};
  chosen_device const device = choose_device(o.device);
  std::string const model = choose_model(file, o.model);
  require_sound_weights("evaluate", model, file);
  int const batch = o.device.batch.value_or(device.gpu ? 256 : 32);
  auto const net = make_classifier(model, file, device, batch);
  dm2::dataset const set = open_pictures(o, file, net->classes());
  std::vector<picture_entry> entries;
  entries.reserve(set.size());
  for (std::size_t i = 0; i < set.size(); ++i)
    entries.push_back({set.image(i), "", set.packed(), set.packed() ? set.record(i) : 0});
  counts found{set, std::size_t(o.max_bad), std::vector<dm2::evaluation>(net->classes())};
  run_speed const speed =
      run_pictures(*net, entries, batch, device.workers,
                   [&](picture_batch const& b, batch_results const& results) { found.add(b, results); },
                   {.max_pixels = o.max_pixels, .max_scans = o.max_scans});
  found.progress.clear();
  dm2::evaluation total;
  for (dm2::evaluation const& one : found.classes) total += one;
  bool written = true;
  try {
    if (!o.per_class.empty()) write_per_class(o.per_class, set, found.classes);
  } catch (dm2::file_error const& problem) {  // the counts are there all the same
    written = false;
    std::cerr << "evaluate: " << printable(problem.what()) << '\n';
  }
  print(o, {model, device.text(), total, found.bad, speed});
  return found.bad == 0 && written ? exit_ok : exit_incomplete;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Tells how often a DeMansia 2 model is right on labelled pictures.", "evaluate"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return evaluate(o); });
}
