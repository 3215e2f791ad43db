// Lists, compiles and removes the code of models. See README.md, or run with --help.
#include <dm2/model/model_table.hpp>
#include <dm2/run/cache.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/presets.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/devices.hpp"
#include "../support/model_flags.hpp"
#include "../support/model_spec.hpp"
#include "../support/table.hpp"
#include "../support/text.hpp"

#include <array>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;

struct options {
  std::vector<std::string> models;
  bool compile = false, prune = false;
  model_flags model;
  device_flags device;
};

constexpr char const* footer =
    R"(A model's code is compiled into dm2, or kept in ${XDG_CACHE_HOME:-$HOME/.cache}/dm2, where train, evaluate and
classify put it when they want a model for the first time. Whoever can write there can have commands executed: the
folder is refused where others may.

MODEL is a name (tiny), a name with fields (tiny:classes=37,image=384x320,attn_layers=4+8), or a .toml or .json file.

Exit codes:
  0  done
  1  some code is being compiled by another process and was not removed, or output could not be written
  2  the command line makes no sense, or a model breaks a rule
  3  the folder is refused, or code could not be compiled

Examples:
  models
  models --compile tiny:classes=37,image=384 mine.toml
  models --compile --model quick --num-classes 10 --device cpu
  models --prune)";

/// "2026-11-30 16:20"
std::string date_text(std::int64_t seconds) {
  std::time_t const time = std::time_t(seconds);
  std::tm parts{};
  std::array<char, 32> text{};
  if (::localtime_r(&time, &parts) == nullptr) return "?";
  return std::string(text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M", &parts));
}

void print_model(dm2::config const& c) {
  dm2::model_table const table{c};
  std::cout << "  " << dm2::describe(dm2::name_of(c), c) << ", " << grouped(table.parameter_count()) << " parameters";
}

int list_models() {
  std::cout << "Compiled in:\n";
  for (dm2::run::model_code const* const code : dm2::run::compiled_in()) {
    print_model(code->configuration());
    std::cout << " (" << dm2::run::name_of(code->backend()) << ")\n";
  }
  dm2::run::cache const cache;
  std::cout << "Compiled when they were wanted, in " << printable(cache.folder().string()) << ":\n";
  for (dm2::run::cached_model const& m : cache.list()) {
    std::cout << "  " << printable(m.statement.title.empty() ? m.path.filename().string() : m.statement.title) << ": "
              << byte_size(std::size_t(m.bytes)) << ", " << date_text(m.statement.made);
    if (!m.problem.empty()) std::cout << " (" << printable(m.problem) << ": it will be compiled again)";
    std::cout << '\n';
  }
  return exit_ok;
}

int prune_models() {
  dm2::run::prune_report const report = dm2::run::cache{}.prune();
  std::cout << "removed the code of " << counted(report.models, "model") << ", " << byte_size(std::size_t(report.bytes))
            << '\n';
  if (report.busy == 0) return exit_ok;
  std::cerr << "models: " << grouped(report.busy) << " being compiled by another process "
            << (report.busy == 1 ? "stays\n" : "stay\n");
  return exit_incomplete;
}

int compile_models(options const& o) {
  std::vector<dm2::told_model> all;
  for (std::string const& spec : o.models) all.push_back(model_of_spec(spec));
  if (given(o.model)) all.push_back(settle(o.model, std::nullopt, std::nullopt));
  if (all.empty()) throw usage_error{"--compile needs a MODEL, or --model and the flags after it"};
  chosen_device const device = choose_device(o.device);
  for (dm2::told_model const& told : all) {
    (void)find_model_code("models", told.configuration, device);
    std::cout << dm2::run::title_of(told.configuration, device.backend()) << " is there\n";
  }
  return exit_ok;
}

int models(options const& o) {
  if (o.compile && o.prune) throw usage_error{"--compile and --prune exclude each other"};
  if (!o.compile && (!o.models.empty() || given(o.model)))
    throw usage_error{"a model is given, but not --compile, which compiles it"};
  if (o.compile) return compile_models(o);
  return o.prune ? prune_models() : list_models();
}

}  // namespace

extern "C" int models_command(int argc, char** argv) {
  CLI::App app{"Lists the models whose code is there, compiles others ahead of time, and removes them.", "models"};
  app.footer(footer);
  options o;
  app.add_option("MODEL", o.models, "Models to compile")->type_name("");
  app.add_flag("--compile", o.compile, "Compile the models now, for the device");
  app.add_flag("--prune", o.prune, "Remove all code that was compiled when it was wanted");
  add_model_flags(app, o.model);
  add_device_options(app, o.device);
  return run_program(app, argc, argv, [&] { return models(o); });
}
