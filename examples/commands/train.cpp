// Trains a model from folders of pictures. See README.md, or run with --help.
#include <dm2/io/class_names.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/run/told_model.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/devices.hpp"
#include "../support/model_flags.hpp"
#include "../support/models.hpp"
#include "../support/processes.hpp"
#include "../support/resumed_flags.hpp"
#include "../support/run_request.hpp"
#include "../support/start_processes.hpp"
#include "../support/stop_signal.hpp"
#include "../support/train_call.hpp"
#include "../support/training_flags.hpp"
#include "../support/training_folder.hpp"
#include "../support/training_run.hpp"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

constexpr char const* footer =
    R"(The defaults are the recipe of the published Tiny, for label maps and a step of 1,024 pictures.

OUTPUT/EXPERIMENT gets last.safetensors, best.safetensors, epoch-NNNN.safetensors, steps.csv, epochs.csv, with --profile
profile.csv, and TensorBoard events. classify, evaluate and convert read the checkpoints. One process trains in a folder
at a time.

A run that ends for whatever reason goes on with --resume auto, to the bytes that it would have had: from the checkpoint
that is furthest on, of those that can be read. It keeps the recipe's flags; those that are given anew, on the command
line or in --config, count more, and each that differs is said. A folder that holds anything of a run is begun anew only
with --overwrite, which checks every input first and keeps the old run until the new one has a checkpoint.

SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU end a run after the present step, with a checkpoint; a second
SIGINT or SIGTERM ends it at once. Where the output cannot be written any more, the run goes on without it.

With --processes N, or started by mpirun or srun, several processes share the micro-batches of each step. The bytes of a
run do not depend on their number, if --threads is the same.

Exit codes:
  0  the last epoch is done, or the one that --stop-after names
  1  --check found something wrong; nothing was trained
  2  the command line makes no sense, the data do not fit the model, or another process trains in the folder
  3  a file could not be read or written, is damaged, or is not what was asked for; memory ran out; or all is done, and
     only the output could not be written
  4  training diverged: a loss or gradient is not finite
  5  stopped by a signal, with a checkpoint if a step was done
  6  another process of the run did not answer; --resume auto goes on, on any number of processes

Examples:
  train imagenet --token-label-data label_top5_train_nfnet -b 64 --grad-accum-steps 16
  train pictures -m micro -b 32 --grad-accum-steps 1 --lr 1e-3 --epochs 30 --experiment first
  train --experiment first --resume auto)";

/// Throws usage_error where an input is in the folder whose run is to be replaced.
void require_inputs_outside(CLI::App& app, training_flags const& f, training_folder const& folder) {
  fs::path const config = app.get_config_ptr()->count() > 0 ? app.get_config_ptr()->as<std::string>() : "";
  fs::path const resume = f.resume == "auto" ? fs::path{} : f.resume;
  for (fs::path const& input : {f.data, f.train, f.validation, f.labels, f.initial, resume, config})
    if (!input.empty() && folder.contains(input))
      throw usage_error{input.string() + " is in " + folder.files().root().string() +
                        ", whose run --overwrite replaces; --experiment names another folder"};
}

/// What the folder of a run is called that --experiment does not name: after the model, or the weights to start from.
std::string run_name(training_flags const& flags) {
  if (!flags.model.model.empty()) return fs::path{flags.model.model}.stem().string();
  return flags.initial.empty() ? "tiny" : flags.initial.stem().string();
}

/// What a run begins anew or goes on with.
struct settled_run {
  std::optional<resume_point> from;
  resumed_flags resumed;
};

/// Settles whether the run begins anew or goes on, and with what. Nothing of an old run is touched.
void settle_run(CLI::App& app, training_flags& flags, training_folder& folder, settled_run& r,
                dm2::communicator& processes) {
  if (flags.resume == "auto") {
    r.from = folder.newest(flags.overwrite);
    if (r.from) r.resumed = take_stored_flags(app, *r.from);
  }
  if (!folder.goes_on_with(r.from)) {
    if (!flags.check) folder.require_free(flags.overwrite);  // else the data come first; make_room asks again
    if (flags.overwrite && !folder.files().trace().empty()) require_inputs_outside(app, flags, folder);
  }
  if (r.from && app.count("--pretrained") > 0)
    std::cerr << "train: --pretrained changes nothing: the run goes on with its checkpoint\n";
  share_text(processes, r.from ? r.from->file.string() : "");
}

/// The same on a process that is not the first, which settles it and tells what the run goes on with.
void follow_run(CLI::App& app, training_flags& flags, settled_run& r, dm2::communicator& processes) {
  std::string const file = share_text(processes, "");
  if (flags.resume != "auto" || file.empty()) return;
  r.from = named_checkpoint(file);
  r.resumed = take_stored_flags(app, *r.from);
}

int train_here(CLI::App& app, training_flags& flags, run_processes& processes) {
  if (app.count("--pretrained") > 0 && flags.initial.empty())
    throw usage_error{"--pretrained needs a FILE: nothing is downloaded; README.md says where weights are"};
  chosen_device const device = choose_device({flags.device, flags.precision, flags.threads, flags.workers, {}});
  processes.connect(device.gpu);
  flags.workers = share_of_processors(device.workers, processes.place());
  flags.threads = share_of_processors(flags.threads, processes.place());
  settled_run settled;
  if (!flags.resume.empty() && flags.resume != "auto") {
    settled.from = named_checkpoint(flags.resume);
    settled.resumed = take_stored_flags(app, *settled.from);
  }
  fs::path const root = flags.output / (flags.experiment.empty() ? run_name(flags) : flags.experiment);
  std::optional<training_folder> folder;
  if (processes.first())
    folder.emplace(root, flags.history);
  else
    folder.emplace(training_folder::seen_by_another{}, root, flags.history);
  if (processes.first())
    settle_run(app, flags, *folder, settled, processes.get());
  else
    follow_run(app, flags, settled, processes.get());
  std::vector<std::string> const known =
      settled.from ? dm2::read_class_names(dm2::tensor_file{settled.from->file}) : std::vector<std::string>{};
  training_data data{flags};
  dm2::told_model const told = choose_trained_model(flags.model, settled.from ? settled.from->file : fs::path{},
                                                    flags.initial, data.training.classes());
  data.fit(told.configuration.classes, known);
  if (device.gpu) flags.precision = device.precision;
  dm2::run::model_code const& code = find_model_code("train", told.configuration, device);
  run_request const request{
      flags, told.name, arguments_json(app), *folder, settled.from, settled.resumed, processes.get(), data, known};
  return training_run{request, code}.run();
}

int train(CLI::App& app, training_flags& flags, std::vector<std::string> const& words) {
  watch_stop_signals();
  if (auto const code = start_processes({flags.processes, flags.restarts, flags.gpus, flags.deadline}, words))
    return *code;
  run_processes processes{flags.deadline};
  quiet_output const quiet{!processes.first()};
  try {
    return train_here(app, flags, processes);
  } catch (usage_error const&) {
    if (processes.first()) throw;
    return exit_usage;  // the first process says it
  }
}

}  // namespace

extern "C" int train_by_words(std::vector<std::string> words) {
  CLI::App app{"Trains a DeMansia 2 model.", "train"};
  training_flags flags;
  add_training_flags(app, flags);
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  app.parse(std::move(words));
  if (flags.processes > 1 || !flags.gpus.empty() || flags.restarts > 0)
    throw usage_error{"--processes, --gpus and --restarts start the program dm2 anew; mpirun or srun start others"};
  run_processes processes{flags.deadline};
  quiet_output const quiet{!processes.first()};
  return train_here(app, flags, processes);
}

extern "C" int train_command(int argc, char** argv) {
  CLI::App app{"Trains a DeMansia 2 model.", "train"};
  app.footer(footer);
  training_flags flags;
  add_training_flags(app, flags);
  return run_program(
      app, argc, argv, [&] { return train(app, flags, command_to_repeat(argc, argv)); }, exit_model);
}
