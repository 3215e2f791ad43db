/// @file
/// A training run of one model, from its flags to its exit code.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/train/fine_tune.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/trainer.hpp>

#include "class_maps.hpp"
#include "command_line.hpp"
#include "stop_signal.hpp"
#include "training_data.hpp"
#include "training_flags.hpp"
#include "training_log.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// The exit codes of train beside those of every program.
enum training_exit : int { exit_diverged = 4, exit_stopped = 5 };

namespace detail {

inline void require_flag(char const* flag, std::optional<int> asked, int has) {
  if (asked && *asked != has)
    throw usage_error{std::string{flag} + " " + std::to_string(*asked) + ": the model has " + std::to_string(has) +
                      ", a constant of it; see examples/support/models.hpp"};
}

/// Throws usage_error where the flags ask for another model than C, or for what does not go together.
template <config C>
void require_flags(training_flags const& f) {
  require_flag("--num-classes", f.classes, C.classes);
  require_flag("--img-size", f.image, C.image.height);
  require_flag("--img-size", f.image, C.image.width);
  require_flag("--token-label-size", f.label_size, C.image.height / C.patch);
  if (f.token_labels && f.labels.empty()) throw usage_error{"--token-label needs --token-label-data"};
  if (f.fresh_optimiser && f.resume.empty()) throw usage_error{"--no-resume-opt needs --resume"};
}

/// The checkpoint to go on with, or nothing. Throws usage_error where the run's folder holds a run that nobody
/// mentioned.
inline std::optional<std::filesystem::path> resumed_file(training_flags const& f, run_folder const& folder) {
  bool const there = std::filesystem::exists(folder.last());
  if (f.resume == "auto") return there ? std::optional{folder.last()} : std::nullopt;
  if (!f.resume.empty()) return f.resume;
  if (there && !f.overwrite)
    throw usage_error{
        folder.root().string() +
        " holds a run; --resume auto goes on with it, --overwrite begins anew, --experiment names another"};
  folder.remove_checkpoints();
  std::vector<std::filesystem::path> events;  // TensorBoard would show the old run's beside the new one's
  for (auto const& entry : std::filesystem::directory_iterator{folder.root()})
    if (entry.path().filename().string().starts_with(dm2::detail::event_file_prefix)) events.push_back(entry.path());
  for (auto const& file : events) std::filesystem::remove(file);
  return std::nullopt;
}

/// Throws file_error where a checkpoint's classes are not the data's.
inline void require_same_classes(std::filesystem::path const& path, dataset const& set) {
  auto const names = read_class_names(tensor_file{path});
  if (!std::equal(names.begin(), names.end(), set.class_names().begin(), set.class_names().end()))
    throw file_error{path, "was trained on other classes than those of " + set.root().string()};
}

inline std::string short_number(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

}  // namespace detail

/// A model, its data and its trainer, computing with Context.
template <config C, class Context>
class training_run {
 public:
  /// Throws usage_error, and what the parts throw. `arguments` goes into every checkpoint.
  training_run(training_flags const& f, nlohmann::ordered_json const& arguments)
      : flags_{f},
        data_{(detail::require_flags<C>(f), f), C.classes},
        folder_{f.output / (f.experiment.empty() ? f.model : f.experiment), f.history},
        arguments_{arguments.dump()} {}

  /// Trains; returns an exit code. Throws what the parts throw.
  int run() {
    if (flags_.check && !check_data()) return exit_incomplete;
    if (stop_requested) return exit_stopped;
    auto const resumed = detail::resumed_file(flags_, folder_);
    folder_.remove_unfinished();
    if (resumed) detail::require_same_classes(*resumed, data_.training);
    loader training{data_.training, training_options(), flagged_transform(flags_, image)};
    std::optional<loader> validation;
    if (data_.validation)
      validation.emplace(*data_.validation, validation_options(),
                         evaluation_sample_transform(image, evaluation_resize(image)));
    describe_run(training.batches());
    network net{validation_batch(), make_context()};
    initialise(net, flags_.seed);
    if (!resumed && !flags_.initial.empty()) start_from(net, flags_.initial);
    trainer<C, Context> driver{net, driver_options(), training, validation ? &*validation : nullptr, folder_};
    if (resumed) {
      driver.resume(*resumed, !flags_.fresh_optimiser);
      std::cout << "resumed    " << resumed->string() << " in epoch " << driver.epoch() + 1 << " after "
                << grouped(std::size_t(driver.steps())) << " steps"
                << (flags_.fresh_optimiser ? ", the optimiser anew\n" : "\n");
    }
    training_log log{folder_.root(),      flags_.rates.epochs, flags_.accumulate,
                     flags_.log_interval, driver.epoch(),      driver.steps()};
    log.text("configuration", "    " + arguments_);
    log_ = &log;
    draw_ = [&](epoch_report const& e) {
      driver.average().swap(net);
      auto const grid = class_map_grid(net, *data_.validation, std::size_t(flags_.images));
      driver.average().swap(net);
      if (grid) log.image("class_maps", e.step, *grid);
    };
    return finish(driver, log);
  }

 private:
  using network = model<C, Context>;
  static constexpr bool on_host = Context::memory == space::host;
  static constexpr image_extent image{C.image.height, C.image.width};

  [[nodiscard]] Context make_context() const {
    if constexpr (on_host)
      return Context{flags_.threads};
    else
      return Context{};
  }
  [[nodiscard]] bool check_data() const {
    bool const training = print_check("training", data_.training, *flags_.workers);
    return (!data_.validation || print_check("validation", *data_.validation, *flags_.workers)) && training;
  }
  [[nodiscard]] int validation_batch() const {
    return flags_.validation_batch > 0 ? flags_.validation_batch : flags_.batch;
  }
  [[nodiscard]] loader_options training_options() const {
    return {.mode = loading::training,
            .image = image,
            .batch = flags_.batch,
            .threads = *flags_.workers,
            .seed = flags_.seed,
            .max_bad = std::size_t(flags_.max_bad),
            .report = [this](file_error const& problem) { complain(problem); }};
  }
  [[nodiscard]] loader_options validation_options() const {
    loader_options o = training_options();
    o.mode = loading::evaluation;
    o.batch = validation_batch();
    o.label_maps = false;
    return o;
  }
  void complain(file_error const& problem) const {
    if (log_ != nullptr) log_->clear();
    std::cerr << "train: skipped " << printable(problem.what()) << '\n';
  }

  [[nodiscard]] trainer_options driver_options() {
    trainer_options o;
    o.batch = flags_.batch;
    o.accumulate = flags_.accumulate;
    o.rates = flags_.rates;
    o.optimiser = flags_.optimiser;
    std::tie(o.optimiser.beta1, o.optimiser.beta2) = flags_.betas;
    o.ema_decay = flags_.ema ? flags_.ema_decay : 0;
    o.ema_warm_up = flags_.ema_warm_up;
    o.smoothing = flags_.smoothing;
    o.mix_token = flags_.mix_token;
    o.crops = flags_.crops;
    o.seed = flags_.seed;
    o.stop_after = flags_.stop_after;
    o.checkpoint_steps = flags_.checkpoint_steps;
    o.metadata = {{"arguments", arguments_}, {class_names_key, class_names_text(data_.training.class_names())}};
    o.on_step = [this](step_report const& s) { log_->step(s); };
    o.on_epoch = [this](epoch_report const& e) {
      log_->epoch(e);
      bool const drawn = flags_.image_interval > 0 && data_.validation &&
                         ((e.epoch + 1) % flags_.image_interval == 0 || e.epoch + 1 == flags_.rates.epochs);
      if (drawn) draw_(e);
    };
    o.stop = &stop_requested;
    return o;
  }

  void start_from(network& net, std::filesystem::path const& path) const {
    tensor_file const file{path};
    pretrained_report const report = load_pretrained(net, file);
    std::cout << "weights    " << path.string() << (file.averaged() ? " (averages): " : ": ") << report.loaded
              << " tensors loaded";
    if (!report.reinitialised.empty()) std::cout << "; new: " << joined(report.reinitialised);
    if (!report.resized.empty()) std::cout << "; resized: " << joined(report.resized);
    std::cout << '\n';
  }

  void describe_run(std::size_t batches) const {
    training_flags const& f = flags_;
    std::size_t const each = std::size_t(f.accumulate);
    using detail::short_number;
    std::cout << "model      " << describe(f.model, C) << ", " << grouped(parameter_count<C>) << " parameters\n"
              << "data       " << grouped(data_.training.size()) << " training pictures, "
              << (data_.validation ? grouped(data_.validation->size()) + " for validation" : "no validation set")
              << (f.labels.empty() ? ", hard labels" : ", label maps of " + f.labels.string()) << '\n'
              << "batch      " << f.batch << " x " << f.accumulate << " = " << grouped(std::size_t(f.batch) * each)
              << " pictures a step, " << grouped((batches + each - 1) / each) << " steps an epoch, " << f.rates.epochs
              << " epochs\n"
              << "rate       " << short_number(f.rates.base) << " after " << f.rates.warmup << " epochs from "
              << short_number(f.rates.start) << ", cosine to " << short_number(f.rates.floor) << "; "
              << (f.optimiser.kind == optimizer_kind::lion ? "Lion" : "AdamW") << ", weight decay "
              << short_number(f.optimiser.weight_decay) << ", "
              << (f.ema ? "averages " + short_number(f.ema_decay) : "no averages") << '\n'
              << "memory     "
              << byte_size(planned_bytes<dm2::detail::training_plan<C, Context>>(f.batch) +
                           5 * sizeof(float) * state_extent<C>)
              << " for the network, on the " << (on_host ? "CPU, fp32" : "GPU, " + flags_.precision) << '\n'
              << "run        " << folder_.root().string() << '\n'
              << std::flush;
    if (f.amp && on_host) std::cerr << "train: --amp changes nothing here: the CPU computes in float\n";
  }

  template <class Driver>
  int finish(Driver& driver, training_log& log) {
    try {
      bool const whole = driver.run();
      log_ = nullptr;
      if (!whole) {
        log.say("stopped in epoch " + std::to_string(driver.epoch() + 1) + " after " +
                grouped(std::size_t(driver.steps())) + " steps; --resume auto goes on");
        return exit_stopped;
      }
      std::string best;
      if (data_.validation) best = ", top-1 " + percent(float(driver.best()));
      if (driver.best_epoch() >= 0)
        log.say("best epoch " + std::to_string(driver.best_epoch() + 1) + best + ": " + folder_.best().string());
      return exit_ok;
    } catch (divergence_error const& problem) {
      log.clear();
      std::cerr << "train: " << problem.what()
                << "\nThe checkpoints are from before. A lower --lr, or --clip-grad, may help.\n";
      return exit_diverged;
    }
  }

  training_flags flags_;
  training_data data_;
  run_folder folder_;
  std::string arguments_;
  training_log* log_ = nullptr;
  std::function<void(epoch_report const&)> draw_;
};

}  // namespace dm2::example
