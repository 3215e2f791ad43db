// How often a model is right on labelled pictures. See README.md, or run with --help.
#include <dm2/data/dataset.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/train/evaluate.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "support/classifier.hpp"
#include "support/command_line.hpp"
#include "support/models.hpp"
#include "support/progress.hpp"
#include "support/text.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  fs::path data, weights, per_class;
  std::string model;
  bool ema = false, raw = false, json = false;
  int batch = 32, workers = 2, threads = 0, max_bad = 100;
};

constexpr char const* footer =
    R"(DIR holds val/CLASS/..., or the class folders themselves. Classes have the numbers that the weights file names
(class_names), so that they are those of training; a file without names numbers the folders in natural order.

Exit codes:
  0  done
  1  some pictures could not be read and were left out, or output could not be written
  2  the command line makes no sense, or the pictures have other classes than the model
  3  a file is unreadable, damaged, or not what was asked for

Examples:
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt"
  evaluate pictures -w runs/first/best.safetensors --per-class classes.csv)";

void add_options(CLI::App& app, options& o) {
  app.add_option("DIR,--data-dir,--data-path", o.data, "The pictures")->required()->type_name("FOLDER");
  app.add_option("-w,--weights,--checkpoint", o.weights, "Weights: .ckpt, .safetensors, or a run's checkpoint")
      ->required()
      ->type_name("FILE");
  app.add_option("-m,--model", o.model, "The model, where the file does not tell (" + joined(model_names()) + ")")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_names()).description(""));
  auto* const ema =
      app.add_flag("--ema", o.ema, "Take a checkpoint's averaged weights (the default where it has them)");
  app.add_flag("--raw", o.raw, "Take a checkpoint's weights as they were last trained")->excludes(ema);
  app.add_option("--per-class", o.per_class, "Write a row for each class")->type_name("FILE.csv");
  app.add_flag("--json", o.json, "Print one JSON object");
  app.add_option("-b,--batch-size", o.batch, "Pictures a batch (32)")->check(number_from(1, 1 << 20));
  app.add_option("-j,--workers", o.workers, "Threads that read pictures (2; 0: one a processor)")
      ->check(number_from(0, 1024));
  app.add_option("--threads", o.threads, "Threads that compute (0: one a processor)")->check(number_from(0, 1024));
  app.add_option("--max-bad", o.max_bad, "Unreadable pictures after which to give up (100)")
      ->check(number_from(0, 1'000'000'000));
}

/// The pictures, with the classes in the order of the weights file.
dm2::dataset open_pictures(options const& o, dm2::tensor_file const& file, std::size_t classes) {
  std::error_code ignored;
  fs::path const root = fs::is_directory(o.data / "val", ignored) ? o.data / "val" : o.data;
  dm2::dataset set{root, {.classes = read_class_names(file)}};
  if (std::size_t(set.classes()) != classes)
    throw usage_error{root.string() + " has " + std::to_string(set.classes()) + " classes, the model " +
                      std::to_string(classes) +
                      (read_class_names(file).empty() ? "; the weights file names none" : "")};
  return set;
}

void write_per_class(fs::path const& path, dm2::dataset const& set, std::span<dm2::evaluation const> results) {
  std::ofstream out{path};
  out << "class,name,samples,top1,top5,loss\n";
  for (std::size_t c = 0; c < results.size(); ++c) {
    std::string name = set.class_names()[c];
    for (std::size_t at = 0; (at = name.find('"', at)) != name.npos; at += 2) name.insert(at, 1, '"');
    out << c << ",\"" << name << "\"," << results[c].samples;
    if (results[c].samples == 0)
      out << ",,,\n";
    else
      out << ',' << shortest(float(100 * results[c].accuracy())) << ',' << shortest(float(100 * results[c].accuracy5()))
          << ',' << shortest(float(results[c].loss())) << '\n';
  }
  if (!out.flush()) throw dm2::file_error{path, "cannot be written"};
}

/// Runs the model over the set; one count for each class.
std::vector<dm2::evaluation> evaluate_classes(classifier& net, dm2::dataset const& set, dm2::loader& samples) {
  std::vector<dm2::evaluation> results(net.classes());
  std::vector<float> logits;
  progress_bar progress{set.size()};
  std::size_t done = 0;
  samples.start(0);
  while (dm2::batch const* b = samples.next()) {
    logits.resize(std::size_t(b->size) * net.classes());
    net.forward(b->pictures, logits);
    for (std::size_t i = 0; i < std::size_t(b->size); ++i)
      results[std::size_t(b->labels[i])].add(std::span<float const>{logits}.subspan(i * net.classes(), net.classes()),
                                             b->labels[i]);
    progress.show(done += std::size_t(b->size));
  }
  return results;
}

void print(options const& o, dm2::evaluation const& total, std::string const& model, std::size_t bad, double seconds) {
  double const speed = seconds > 0 ? double(total.samples) / seconds : 0;
  if (o.json) {
    nlohmann::ordered_json const object{{"model", model},
                                        {"top1", 100 * total.accuracy()},
                                        {"top5", 100 * total.accuracy5()},
                                        {"loss", total.loss()},
                                        {"samples", total.samples},
                                        {"bad", bad},
                                        {"images_per_second", speed}};
    std::cout << object.dump() << '\n';
    return;
  }
  std::array<char, 160> text;
  std::snprintf(text.data(), text.size(), "top-1 %.3f %%  top-5 %.3f %%  loss %.4f  ", 100 * total.accuracy(),
                100 * total.accuracy5(), total.loss());
  std::cout << model << "  " << text.data() << grouped(total.samples) << " pictures";
  if (bad != 0) std::cout << " (" << grouped(bad) << " left out)";
  std::snprintf(text.data(), text.size(), "  %.1f img/s\n", speed);
  std::cout << text.data();
}

int evaluate(options const& o) {
  dm2::tensor_file const file{o.weights, o.ema   ? dm2::weights::ema
                                         : o.raw ? dm2::weights::raw
                                                 : dm2::weights::automatic};
  std::string const model = choose_model(file, o.model);
  auto const net = make_classifier(model, file, o.batch, o.threads);
  dm2::dataset const set = open_pictures(o, file, net->classes());
  dm2::loader samples{set,
                      {.mode = dm2::loading::evaluation,
                       .image = net->crop(),
                       .batch = o.batch,
                       .threads = o.workers,
                       .max_bad = std::size_t(o.max_bad),
                       .report =
                           [](dm2::file_error const& problem) {
                             std::cerr << "evaluate: left out " << printable(problem.what()) << '\n';
                           }},
                      dm2::evaluation_sample_transform(net->crop(), dm2::evaluation_resize(net->crop()))};
  auto const begin = std::chrono::steady_clock::now();
  auto const results = evaluate_classes(*net, set, samples);
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  dm2::evaluation total;
  for (dm2::evaluation const& one : results) total += one;
  if (!o.per_class.empty()) write_per_class(o.per_class, set, results);
  print(o, total, model, samples.bad(), seconds);
  return samples.bad() == 0 ? exit_ok : exit_incomplete;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Tells how often a DeMansia 2 model is right on labelled pictures.", "evaluate"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return evaluate(o); });
}
