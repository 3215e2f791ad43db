// Pictures in, class names and probabilities out. See README.md, or run with --help.
#include <dm2/data/heatmap.hpp>
#include <dm2/demansia.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/devices.hpp"
#include "../support/heatmap_files.hpp"
#include "../support/model_flags.hpp"
#include "../support/models.hpp"
#include "../support/picture_run.hpp"
#include "../support/progress.hpp"
#include "../support/results.hpp"
#include "../support/weights_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  std::vector<fs::path> pictures;
  fs::path weights, names;
  std::string heatmap;
  model_flags model;
  weights_flags from;
  bool json = false, csv = false, speed = false;
  int top = 5;
  device_flags device;
  std::optional<int> heatmap_class;
};

constexpr char const* footer = R"(Without --names, class names come from the weights file where it holds any.

The heat map shows where in the picture the patch head sees the best class (or --class): its probability from the
lowest in the picture (blue) to the highest (red). What the model's centre crop leaves out is dark.

Exit codes:
  0  every picture was classified
  1  some pictures could not be read, or the model's results for them were not finite numbers, or something could not be
     written; the rest was done
  2  the command line makes no sense
  3  the weights or names file is unreadable, damaged, or not the model's, or weights are not finite numbers

Examples:
  classify --weights "DeMansia 2 Tiny EMA.ckpt" --names imagenet_classes.txt photos/ --top 3
  classify --weights "DeMansia 2 Tiny EMA.ckpt" photos/ --csv --device cuda --speed > photos.csv)";

void add_inputs(CLI::App& app, options& o) {
  app.add_option("PICTURE", o.pictures, "JPEG and PNG files, folders of them, and packed sets")
      ->required()
      ->type_name("");
  app.add_option("-w,--weights", o.weights, "Model file: Lightning .ckpt, torch .pt or safetensors")
      ->required()
      ->type_name("FILE");
  add_weights_flags(app, o.from);
  app.add_option("-n,--names", o.names, "Class names, one a line; ImageNet's lists with WordNet numbers too")
      ->type_name("FILE");
}

void add_outputs(CLI::App& app, options& o) {
  app.add_option("-k,--top", o.top, "Classes to show for each picture (5)")
      ->type_name("N")
      ->check(number_from(1, 1'000'000));
  auto* const json = app.add_flag("--json", o.json, "Print a JSON array, an object for each picture");
  app.add_flag("--csv", o.csv, "Print comma-separated values")->excludes(json);
  auto* const map = app.add_option("--heatmap", o.heatmap,
                                   "Write what the model sees where: a .png; for several pictures a folder,\n"
                                   "or a name with {} where the picture's goes")
                        ->type_name("FILE");
  app.add_option("--class", o.heatmap_class, "The class that the heat map shows, by number (the best)")
      ->type_name("N")
      ->needs(map);
  app.add_flag("--speed", o.speed, "Say at the end, on stderr, how fast it went");
}

void add_devices(CLI::App& app, options& o) {
  add_model_flags(app, o.model);
  add_device_options(app, o.device);
  app.add_option("-b,--batch", o.device.batch, "Pictures computed at once (8; 64 on a GPU)")
      ->type_name("N")
      ->check(number_from(1, 1024));
}

/// The names that the user gave, else those in the model's file, else none.
std::vector<std::string> class_names(options const& o, dm2::tensor_file const& file, std::size_t classes) {
  return o.names.empty() ? names_in_file("classify", file, classes) : dm2::read_class_list(o.names, classes);
}

std::unique_ptr<result_writer> make_writer(options const& o, std::span<fs::path const> pictures,
                                           std::vector<std::string> const& names) {
  if (o.json) return std::make_unique<json_writer>(std::cout, names);
  if (o.csv) return std::make_unique<csv_writer>(std::cout, names);
  return std::make_unique<table_writer>(std::cout, pictures, names);
}

/// Everything that goes through the pictures.
struct run {
  options const& asked;
  dm2::run::classifier& net;
  result_writer& writer;
  std::vector<fs::path> heatmaps;  ///< one a picture, or none at all
  progress_bar progress;
  int exit = exit_ok;

  void complain(std::string const& reason) {
    exit = exit_incomplete;
    progress.clear();
    std::cout.flush();
    std::cerr << "classify: " << printable(reason) << '\n';
  }

  /// Throws where results are no numbers: a picture has no best class then.
  static void require_finite(char const* what, std::span<float const> values) {
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
      throw std::runtime_error{std::string{"the model's "} + what +
                               " are not finite numbers; weights too large for the precision?"};
  }

  /// Draws the map of the best class, or of the one asked for. Decodes the picture again: a batch of whole photographs
  /// would take more memory than the model.
  heatmap_note write_heatmap(picture_result const& result, picture_entry const& entry, fs::path const& file,
                             std::span<float const> patches) const {
    int const index = asked.heatmap_class.value_or(result.best.front().index);
    require_finite("logits for the patches", patches);
    dm2::patch_map map = dm2::class_probability(patches, net.grid(), net.classes(), index);
    auto const [least, most] = dm2::stretch(map);
    dm2::picture_bytes const source = entry.open();
    dm2::picture const p = dm2::decode_image(source.bytes(), source.name());
    dm2::write_png(file, dm2::draw_heatmap(p, map, dm2::evaluation_region(p.height, p.width, net.crop())));
    return {file, index, least, most};
  }

  void finish(picture_result result, picture_entry const& entry, std::size_t number, std::span<float const> patches) {
    try {
      if (!heatmaps.empty()) result.heatmap = write_heatmap(result, entry, heatmaps[number], patches);
    } catch (std::exception const& problem) {
      complain(dm2::example::reason(result.picture, problem));
    }
    progress.clear();
    writer.write(result);
    if (auto const& map = result.heatmap; map && !asked.json && !asked.csv)
      std::cout << "  heat map of class " << map->index << " in " << printable(map->file.string()) << ": blue "
                << percent(map->least) << ", red " << percent(map->most) << '\n';
  }

  void finish(picture_batch const& batch, dm2::run::batch_results const& results) {
    std::size_t const each = std::size_t(net.grid().height) * std::size_t(net.grid().width) * net.classes();
    std::size_t good = 0;
    for (std::size_t i = 0; i < batch.entries.size(); ++i) {
      fs::path const& path = batch.entries[i].path;
      std::string const& error = batch.entries[i].error;
      if (!error.empty()) {
        complain(error);
        writer.failed(path, error);
        continue;
      }
      auto const own = results.logits.subspan(good * net.classes(), net.classes());
      auto const map = heatmaps.empty() ? std::span<float const>{} : results.patches.subspan(good * each, each);
      ++good;
      try {
        require_finite("logits", own);
      } catch (std::exception const& problem) {
        complain(dm2::example::reason(path, problem));
        writer.failed(path, dm2::example::reason(path, problem));
        continue;
      }
      finish({path, dm2::top_k(own, asked.top), std::nullopt}, batch.entries[i], batch.first + i, map);
    }
    progress.show(batch.first + batch.entries.size());
  }

  run_speed all(std::span<picture_entry const> entries, int batch, chosen_device const& device) {
    writer.begin();
    progress.show(0);
    bool const packed =
        std::all_of(entries.begin(), entries.end(), [](picture_entry const& entry) { return entry.set != nullptr; });
    run_speed const speed = run_pictures(
        net, entries, batch, device.workers,
        [&](picture_batch const& b, dm2::run::batch_results const& results) { finish(b, results); }, {},
        device.pictures(packed, batch));
    progress.clear();
    writer.end();
    return speed;
  }
};

int classify(options const& o) {
  dm2::tensor_file const file{o.weights, o.from.chosen()};
  std::vector<picture_entry> const entries = gather_pictures(o.pictures);
  chosen_device const device = choose_device(o.device);
  int const batch = int(
      std::min(std::size_t(o.device.batch.value_or(device.gpu ? 64 : 8)), std::max(entries.size(), std::size_t{1})));
  dm2::config const model = choose_model("classify", file, o.model);
  require_sound_weights("classify", model, file);
  dm2::run::model_code const& code = find_model_code("classify", model, device);
  loaded_classifier const loaded = load_classifier(code, file, device, batch, !o.heatmap.empty());
  dm2::run::classifier* const net = loaded.pictures.get();
  std::vector<std::string> const names = class_names(o, file, net->classes());
  if (o.heatmap_class && (*o.heatmap_class < 0 || std::size_t(*o.heatmap_class) >= net->classes()))
    throw usage_error{"--class " + std::to_string(*o.heatmap_class) + ": the model's classes are 0 to " +
                      std::to_string(net->classes() - 1)};
  std::vector<fs::path> paths;
  paths.reserve(entries.size());
  for (auto const& entry : entries) paths.push_back(entry.path);
  auto const writer = make_writer(o, paths, names);
  run r{o, *net, *writer, o.heatmap.empty() ? std::vector<fs::path>{} : heatmap_files(o.heatmap, paths),
        progress_bar{entries.size()}};
  run_speed const speed = r.all(entries, batch, device);
  if (o.speed) std::cerr << "classify: " << speed.text() << " (" << device.text() << ")\n";
  return r.exit;
}

}  // namespace

extern "C" int classify_command(int argc, char** argv) {
  CLI::App app{"Says what is in pictures, with a DeMansia 2 model.", "classify"};
  app.footer(footer);
  options o;
  add_inputs(app, o);
  add_outputs(app, o);
  add_devices(app, o);
  return run_program(app, argc, argv, [&] { return classify(o); });
}
