// Trains a model from folders of pictures. See README.md, or run with --help.
#include <CLI/CLI.hpp>

#include "support/command_line.hpp"
#include "support/devices.hpp"
#include "support/gpu_trainer.hpp"
#include "support/models.hpp"
#include "support/stop_signal.hpp"
#include "support/training_flags.hpp"
#include "support/training_run.hpp"

namespace {

using namespace dm2::example;

constexpr char const* footer =
    R"(The defaults are the recipe of the published Tiny, for label maps and a step of 1,024 pictures.

OUTPUT/EXPERIMENT gets last.safetensors, best.safetensors, epoch-NNNN.safetensors, steps.csv, epochs.csv and
TensorBoard events. classify, evaluate and convert read the checkpoints. A run that ends for whatever reason goes on with
--resume auto, to the bytes that it would have had. SIGINT and SIGTERM end it after the present step, with a checkpoint; a
second one ends it at once.

Exit codes:
  0  the last epoch is done, or the one that --stop-after names
  1  --check found something wrong; nothing was trained
  2  the command line makes no sense, or the data do not fit the model
  3  a file could not be read or written, is damaged, or is not what was asked for; or memory ran out
  4  training diverged: a loss or gradient is not finite
  5  stopped by a signal, with a checkpoint if a step was done

Examples:
  train imagenet --token-label-data label_top5_train_nfnet -b 64 --grad-accum-steps 16
  train pictures -m micro -b 32 --grad-accum-steps 1 --lr 1e-3 --epochs 30 --experiment first
  train pictures -m micro --experiment first --resume auto -b 32 --grad-accum-steps 1 --lr 1e-3 --epochs 30)";

int train(CLI::App const& app, training_flags flags) {
  if (app.count("--pretrained") > 0 && flags.initial.empty())
    throw usage_error{"--pretrained needs a FILE: nothing is downloaded; README.md says where weights are"};
  int code = exit_usage;
  chosen_device const device = choose_device({flags.device, flags.precision, flags.threads, flags.workers, {}});
  flags.workers = device.workers;
  watch_stop_signals();
  if (device.gpu) {
    flags.precision = device.precision;
    return train_on_gpu(flags, arguments_json(app));
  }
  for_each_model([&]<dm2::config C>(char const* name) {
    if (flags.model == name) code = training_run<C, dm2::cpu::context<float>>{flags, arguments_json(app)}.run();
  });
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains a DeMansia 2 model.", "train"};
  app.footer(footer);
  training_flags flags;
  add_training_flags(app, flags);
  return run_program(app, argc, argv, [&] { return train(app, flags); });
}
