// How often a model is right on labelled pictures. See README.md, or run with --help.
#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/train/evaluate.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/devices.hpp"
#include "../support/model_flags.hpp"
#include "../support/models.hpp"
#include "../support/open_dataset.hpp"
#include "../support/picture_run.hpp"
#include "../support/processes.hpp"
#include "../support/progress.hpp"
#include "../support/shared_evaluation.hpp"
#include "../support/start_processes.hpp"
#include "../support/stop_signal.hpp"
#include "../support/text.hpp"
#include "../support/weights_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  fs::path data, weights, per_class;
  std::string order;
  model_flags model;
  weights_flags from;
  bool json = false;
  int max_bad = 100;
  std::uint64_t max_pixels = dm2::max_sample_pixels;
  int max_scans = dm2::max_sample_scans;
  device_flags device;
  start_flags start;
};

constexpr char const* footer =
    R"(DIR holds val/CLASS/..., or the class folders themselves; a packed set may stand for either. Classes have the
numbers that the weights file names (class_names), so that they are those of training; a file without names numbers the
folders in the order that it says (class_order), or that --class-order says, else in natural order.

With --processes N or --gpus LIST, or started by mpirun or srun, several processes share the batches. What is counted,
and every digit of the loss, does not depend on their number.

Exit codes:
  0  done
  1  some pictures could not be read and were left out, or output could not be written
  2  the command line makes no sense, or the pictures have other classes than the model
  3  a file is unreadable, damaged, or not what was asked for; weights or results are not finite numbers
  6  another process of the run did not answer

Examples:
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt"
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt" --device cuda --precision fp16
  evaluate imagenet -w "DeMansia 2 Tiny EMA.ckpt" --gpus 0-3
  evaluate pictures -w runs/first/best.safetensors --per-class classes.csv)";

void add_options(CLI::App& app, options& o) {
  app.add_option("DIR,--data-dir,--data-path", o.data, "The pictures")->required()->type_name("FOLDER");
  app.add_option("-w,--weights,--checkpoint", o.weights, "Weights: .ckpt, .safetensors, or a run's checkpoint")
      ->required()
      ->type_name("FILE");
  add_weights_flags(app, o.from);
  app.add_option("--class-order", o.order,
                 "How class folders are numbered, where the file has no names: natural (class2 before\n"
                 "class10) or plain, as torchvision does")
      ->type_name("NAME")
      ->check(CLI::IsMember({"natural", "plain"}).description(""));
  app.add_option("--per-class", o.per_class, "Write a row for each class")->type_name("FILE.csv");
  app.add_flag("--json", o.json, "Print one JSON object");
  add_model_flags(app, o.model);
  add_device_options(app, o.device);
  app.add_option("-b,--batch-size", o.device.batch,
                 "Pictures a batch (32; on a GPU 256, of files at up to 224 pixels 1024)")
      ->type_name("N")
      ->check(number_from(1, 1 << 20));
  app.add_option("--max-bad", o.max_bad, "Unreadable pictures after which to give up (100)")
      ->check(number_from(0, 1'000'000'000));
  app.add_option("--max-pixels", o.max_pixels, "Pixels of a picture above which it counts as unreadable (33554432)")
      ->check(number_from(1, 1'000'000'000));
  app.add_option("--max-scans", o.max_scans, "Scans of a JPEG above which it counts as unreadable (64)")
      ->check(number_from(1, 1'000'000));
  app.add_option("--processes", o.start.processes,
                 "Start so many of this program by mpirun, which share the batches (1)")
      ->check(number_from(1, 1'000'000));
  app.add_option("--gpus", o.start.gpus, "Start one process for each of these GPUs of this machine, as 0-3 or 0,2")
      ->type_name("LIST");
  app.add_option("--deadline", o.start.deadline,
                 "Seconds after which a process that does not answer is taken for lost, beyond four times this one's "
                 "own work (30)")
      ->check(CLI::Range(1.0, 1e6).description(""));
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

/// The pictures, with the classes in the order of the weights file. Throws usage_error where they have others.
dm2::dataset open_pictures(options const& o, dm2::tensor_file const& file, std::size_t classes) {
  std::error_code ignored;
  fs::path const root = fs::is_directory(o.data / "val", ignored) ? o.data / "val" : o.data;
  std::vector<std::string> const names = names_in_file("evaluate", file, classes);
  auto const order = names.empty() ? chosen_order(o, file, root) : dm2::class_order::natural;
  dm2::dataset set = open_dataset(root, {.classes = names, .order = order});
  if (std::size_t(set.classes()) != classes)
    throw usage_error{root.string() + " has " + std::to_string(set.classes()) +
                      (set.classes() == 1 ? " class" : " classes") + ", the model " + std::to_string(classes) +
                      (names.empty() ? "; the weights file names none" : "")};
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

/// Throws std::runtime_error where `bad` pictures of the set are too many, or are all of them.
void require_few(std::size_t bad, std::size_t most, std::size_t set, std::string const& front, char const* so_far) {
  if (bad <= most && bad < set) return;
  throw std::runtime_error{front + std::to_string(bad) + " of " + std::to_string(set) +
                           (set == 1 ? " picture is bad" : " pictures are bad") + so_far + ", the limit is " +
                           std::to_string(most)};
}

/// Counts of this process's pictures, as they come.
struct counts {
  dm2::dataset const& set;
  picture_deal deal;
  std::size_t most_bad, classes;
  std::vector<dm2::evaluation> pictures{};  ///< one for each; no sample where it could not be read
  std::size_t bad = 0;                      ///< pictures that could not be read
  progress_bar progress{set.size(), deal.rank == 0 && dm2::stderr_is_terminal()};

  void leave_out(picture_entry const& entry) {
    progress.clear();
    std::cerr << "evaluate: left out " + printable(entry.error) + '\n';  // whole: others write, too
    pictures.emplace_back();
    require_few(++bad, most_bad, set.size(), entry.error + "; ", " so far");
  }

  void add(picture_batch const& batch, dm2::run::batch_results const& results) {
    std::size_t good = 0;
    for (std::size_t i = 0; i < batch.entries.size(); ++i) {
      if (!batch.entries[i].error.empty()) {
        leave_out(batch.entries[i]);
        continue;
      }
      auto const logits = results.logits.subspan(good++ * classes, classes);
      if (!std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }))
        throw dm2::file_error{batch.entries[i].path,
                              "the model's logits are not finite numbers; weights too large for the precision?"};
      pictures.emplace_back().add(logits, set.label(deal.number(batch.first + i)));
    }
    if (!batch.entries.empty()) progress.show(deal.number(batch.first + batch.entries.size() - 1) + 1);
  }
};

/// What evaluate prints.
struct report {
  std::string model, device;
  int processes;
  dm2::evaluation total;
  std::size_t bad;
  run_speed speed;
};

void print(options const& o, report const& r) {
  if (o.json) {
    nlohmann::ordered_json const object{{"model", r.model},
                                        {"device", r.device},
                                        {"processes", r.processes},
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
  std::cout << r.model << "  " << text.data() << counted(r.total.samples, "picture");
  if (r.bad != 0) std::cout << " (" << grouped(r.bad) << " left out)";
  std::snprintf(text.data(), text.size(), "  %.1f img/s  data %.0f %%  (", r.speed.rate(),
                100 * r.speed.waiting_share());
  std::cout << text.data() << r.device
            << (r.processes > 1 ? ", " + std::to_string(r.processes) + " processes)\n" : ")\n");
}

/// Pictures a batch. A GPU decodes files faster the more it has at a time (device_decodes_sooner): 1,024, where a batch
/// of them takes 2.5 GB (Tiny) and 3.6 GB (Small).
int chosen_batch(options const& o, dm2::config const& model, bool gpu, bool packed) {
  if (o.device.batch) return *o.device.batch;
  if (!gpu) return 32;
  return packed || model.image.height * model.image.width > 224 * 224 || model.dim > 384 ? 256 : 1024;
}

/// A model and the pictures that it is held against.
struct prepared {
  std::string model;
  int batch;
  device_pictures on_device;
  loaded_classifier net;
  dm2::dataset set;
};

/// What is odd about the files is said by the first process.
prepared prepare(options const& o, chosen_device const& device, bool quiet) {
  quiet_output const silence{quiet};
  dm2::tensor_file const file{o.weights, o.from.chosen()};
  dm2::config const model = choose_model("evaluate", file, o.model);
  require_sound_weights("evaluate", model, file);
  dm2::dataset set = open_pictures(o, file, std::size_t(model.classes));
  bool const packed = set.packed() != nullptr;
  int const batch =
      std::min(chosen_batch(o, model, device.gpu, packed), int(std::min(set.size(), std::size_t{1} << 20)));
  loaded_classifier net = load_classifier(find_model_code("evaluate", model, device), file, device, batch);
  return {dm2::name_of(model), batch, device.pictures(packed, batch), std::move(net), std::move(set)};
}

/// A process's counts, and how long they took.
struct counted {
  std::vector<dm2::evaluation> pictures;
  run_speed speed;
};

/// Counts this process's pictures.
counted count(options const& o, prepared& p, picture_deal const& deal, int workers) {
  counts found{p.set, deal, std::size_t(o.max_bad), p.net.pictures->classes()};
  std::vector<picture_entry> entries;
  for (std::size_t i = 0; i < p.set.size(); ++i)
    if (deal.owns(i)) entries.push_back({p.set.image(i), "", p.set.packed(), p.set.packed() ? p.set.record(i) : 0});
  run_speed const speed = run_pictures(
      *p.net.pictures, entries, int(deal.batch), workers,
      [&](picture_batch const& b, dm2::run::batch_results const& results) { found.add(b, results); },
      {.max_pixels = o.max_pixels, .max_scans = o.max_scans}, p.on_device);
  found.progress.clear();
  return {std::move(found.pictures), speed};
}

/// On the first process: adds up the pictures' counts in the set's order, prints, writes. Returns an exit code.
int tell(options const& o, prepared const& p, std::span<dm2::evaluation const> pictures, report r) {
  std::vector<dm2::evaluation> classes(p.net.pictures->classes());
  for (std::size_t i = 0; i < pictures.size(); ++i) classes[std::size_t(p.set.label(i))] += pictures[i];
  for (dm2::evaluation const& one : classes) r.total += one;
  bool written = true;
  try {
    if (!o.per_class.empty()) write_per_class(o.per_class, p.set, classes);
  } catch (dm2::file_error const& problem) {  // the counts are there all the same
    written = false;
    std::cerr << "evaluate: " << printable(problem.what()) << '\n';
  }
  print(o, r);
  return r.bad == 0 && written ? exit_ok : exit_incomplete;
}

/// Counts with the other processes; the first one tells. Where one of them fails, all throw.
int share_counting(options const& o, chosen_device const& device, dm2::communicator& all) {
  bool const first = all.rank() == 0;
  std::optional<prepared> ready;
  picture_deal deal{0, 1, std::size_t(all.rank()), std::size_t(all.size())};
  counted own;
  together(all, [&] {
    ready.emplace(prepare(o, device, !first));
    deal.pictures = ready->set.size();
    deal.batch = std::size_t(ready->batch);
    own = count(o, *ready, deal, device.workers);
  });
  auto const pictures = gather_counts(all, deal, std::move(own.pictures));
  run_speed const speed = gather_speed(all, own.speed);
  auto const bad = std::size_t(std::count_if(pictures.begin(), pictures.end(), [](auto& p) { return p.samples == 0; }));
  if (bad > 0) require_few(bad, std::size_t(o.max_bad), pictures.size(), "", "");
  return first ? tell(o, *ready, pictures, {ready->model, device.text(), all.size(), {}, bad, speed}) : int{exit_ok};
}

int evaluate_here(options const& o, run_processes& processes) {
  refuse_output_onto_input("--per-class", o.per_class, std::array{o.weights});
  chosen_device device = choose_device(o.device);
  processes.connect(device.gpu);
  device.threads = share_of_processors(device.threads, processes.place());
  device.workers = share_of_processors(device.workers, processes.place());
  try {
    return share_counting(o, device, processes.get());
  } catch (dm2::process_error const&) {
    throw;
  } catch (std::exception const&) {
    if (processes.first()) throw;
    return exit_ok;  // the first process says it; mpirun would end it before that where another one fails
  }
}

int evaluate(options const& o, std::vector<std::string> const& words) {
  if (o.start.processes > 1 || !o.start.gpus.empty()) {
    if (started_as().size == 1) watch_stop_signals();  // they are passed on
    if (auto const code = start_processes(o.start, words)) return *code;
  }
  run_processes processes{o.start.deadline};
  try {
    return evaluate_here(o, processes);
  } catch (usage_error const&) {
    if (processes.first()) throw;
    return exit_usage;  // the first process says it
  }
}

}  // namespace

extern "C" int evaluate_command(int argc, char** argv) {
  CLI::App app{"Tells how often a DeMansia 2 model is right on labelled pictures.", "evaluate"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return evaluate(o, command_to_repeat(argc, argv)); });
}
