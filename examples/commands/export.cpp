// Models as ONNX files, and as folders for model hubs. See README.md, or run with --help.
#include <dm2/io/class_list.hpp>
#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/run/hub_folder.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/model_flags.hpp"
#include "../support/models.hpp"
#include "../support/text.hpp"
#include "../support/weights_file.hpp"

#include <array>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  fs::path model, output, hub, names;
  weights_flags from;
  model_flags flags;
  bool bytes = false, unit = false, half = false, force = false;
  dm2::onnx_options onnx;
};

constexpr char const* footer =
    R"(MODEL may be a Lightning .ckpt, a torch .pt or safetensors. No code of the model is compiled.

The input is called pixel_values and has the model's picture size and any batch: float [batch, 3, height, width], red,
green and blue, less their mean and over their deviation, or what --normalise or --uint8 says. The output is called
logits, [batch, classes]. docs/onnx.md has an example, and says what the graph is made of.

Exit codes:
  0  done
  1  the line about what was written could not be printed
  2  the command line makes no sense, or OUTPUT exists and --force was not given
  3  a file could not be read or written, is damaged, or not the model's, or weights are not finite numbers

Examples:
  export "DeMansia 2 Tiny EMA.ckpt" tiny.onnx --uint8 --names imagenet_classes.txt
  export runs/tiny/best.safetensors tiny.onnx --fp16 --features
  export runs/tiny/best.safetensors --hub my-demansia)";

void add_options(CLI::App& app, options& o) {
  app.add_option("MODEL", o.model, "The weights' file")->required()->type_name("");
  app.add_option("OUTPUT", o.output, "The ONNX file to write")->type_name("");
  app.add_option("--hub", o.hub,
                 "Write a folder for a model hub: config.json, model.safetensors, onnx/model.onnx, README.md")
      ->type_name("FOLDER");
  auto* const bytes = app.add_flag("--uint8", o.bytes, "The input is bytes [batch, height, width, 3]");
  app.add_flag("--normalise", o.unit, "The input is float from 0 to 1, [batch, 3, height, width]")->excludes(bytes);
  app.add_flag("--fp16", o.half, "Weights and most of the computation in half precision");
  app.add_flag("--features", o.onnx.features, "An output features [batch, tokens, dim]");
  app.add_flag("--patches", o.onnx.patches, "An output patches [batch, rows, columns, classes]: each patch's logits");
  app.add_flag("--external-data", o.onnx.external_data, "Weights in OUTPUT.data; from 1.75 GB on they always are");
  app.add_option("--chunk", o.onnx.chunk, "Tokens of a scan's chunk (what costs least)")
      ->type_name("N")
      ->check(number_from(1, 1'000'000));
  app.add_option("-n,--names", o.names, "Class names to store, one a line (those of MODEL)")->type_name("FILE");
  app.add_flag("-f,--force", o.force, "Replace OUTPUT where it exists");
  add_weights_flags(app, o.from);
  add_model_flags(app, o.flags);
}

void check(options const& o) {
  if (o.output.empty() == o.hub.empty()) throw usage_error{"give OUTPUT or --hub FOLDER, one of them"};
  refuse_output_onto_input("OUTPUT", o.output, std::array{o.model, o.names});
  refuse_output_onto_input("--hub", o.hub / "model.safetensors", std::array{o.model, o.names});
  std::error_code ignored;
  for (fs::path const& there : {o.output, o.hub.empty() ? fs::path{} : o.hub / "config.json"})
    if (!there.empty() && fs::exists(fs::symlink_status(there, ignored)) && !o.force)
      throw usage_error{there.string() + " exists; --force replaces it"};
}

std::string size_text(fs::path const& path) {
  std::error_code problem;
  auto const bytes = fs::file_size(path, problem);
  return problem ? std::string{} : ", " + byte_size(std::size_t(bytes));
}

int export_model(options o) {
  check(o);
  dm2::tensor_file const file{o.model, o.from.chosen()};
  dm2::config const c = choose_model("export", file, o.flags);
  require_sound_weights("export", c, file);
  o.onnx.input = o.bytes ? dm2::onnx_input::bytes : o.unit ? dm2::onnx_input::unit : dm2::onnx_input::normalised;
  o.onnx.half = o.half;
  o.onnx.class_names = o.names.empty() ? names_in_file("export", file, std::size_t(c.classes))
                                       : dm2::read_class_list(o.names, std::size_t(c.classes));
  if (!o.hub.empty()) {
    (void)dm2::write_hub_folder(c, file, o.onnx, o.hub);
    std::cout << printable(o.hub.string()) << ": " << dm2::name_of(c)
              << "; README.md wants a licence and what only you know of the training\n";
    return exit_ok;
  }
  (void)dm2::write_onnx(c, file, o.onnx, o.output);
  std::cout << printable(o.output.string()) << ": " << dm2::name_of(c) << size_text(o.output) << '\n';
  return exit_ok;
}

}  // namespace

extern "C" int export_command(int argc, char** argv) {
  CLI::App app{"Writes a model as an ONNX file, or as a folder for a model hub.", "export"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return export_model(o); });
}
