/// @file
/// A model's training run, from its flags to its exit code.
#pragma once

#include <dm2/io/class_names.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/train/fine_tune.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/training_loop.hpp>

#include "class_maps.hpp"
#include "command_line.hpp"
#include "resumed_flags.hpp"
#include "run_request.hpp"
#include "stop_signal.hpp"
#include "text.hpp"
#include "training_data.hpp"
#include "training_flags.hpp"
#include "training_folder.hpp"
#include "training_log.hpp"
#include "training_recipe.hpp"
#include "weights_file.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// The exit codes of train beside those of every program.
enum training_exit : int { exit_diverged = 4, exit_stopped = 5 };

namespace detail {

/// Throws usage_error where the flags ask for what does not go together, or for another patch grid than the model's.
inline void require_flags(training_flags const& f, config const& c) {
  if (f.label_size && *f.label_size != c.image.height / c.patch)
    throw usage_error{"--token-label-size " + std::to_string(*f.label_size) + ": the model has " +
                      std::to_string(c.image.height / c.patch) + " patches a side"};
  if (f.token_labels && f.labels.empty()) throw usage_error{"--token-label needs --token-label-data"};
  if (f.fresh_optimizer && f.resume.empty()) throw usage_error{"--no-resume-opt needs --resume"};
  (void)flagged_tuning(f.tuning, model_table{c}.entries());
}

/// Throws file_error where a checkpoint's classes are not the data's.
inline void require_same_classes(resume_point const& from, std::span<std::string const> known, dataset const& set) {
  auto const names = set.class_names();
  if (std::equal(known.begin(), known.end(), names.begin(), names.end())) return;
  std::string const odd = odd_classes(set, known, "the checkpoint");
  throw file_error{from.file, "was trained on other classes than those of " + set.root().string() +
                                  (odd.empty() ? ", or on them in another order (--class-order)" : odd)};
}

/// Whether the two orders number the classes in different ways.
[[nodiscard]] inline bool orders_differ(std::span<std::string const> names) {
  return !std::is_sorted(names.begin(), names.end()) || !std::is_sorted(names.begin(), names.end(), natural_less);
}

}  // namespace detail

/// A model, its data and its training loop, computing with whatever code the model has.
class training_run {
 public:
  /// The request and the code outlive the run. Throws usage_error, and what the parts throw.
  training_run(run_request const& request, run::model_code const& code)
      : flags_{request.flags},
        from_{request.from},
        resumed_{request.resumed},
        arguments_(request.arguments),  // braces would make a list of it
        known_{request.known},
        data_{request.data},
        folder_{request.folder},
        processes_{request.processes},
        code_{code},
        model_{code.configuration()},
        name_{request.name} {
    detail::require_flags(flags_, model_);
  }

  /// Trains; returns an exit code. Throws what the parts throw. Every input is read and held against the others before
  /// anything of the folder is changed.
  int run() {
    if (flags_.check && !check_data()) return exit_incomplete;
    if (stop_requested) return exit_stopped;
    check_inputs();
    loader training{data_.training, training_options(), flagged_transform(flags_, image())};
    std::optional<loader> validation;
    if (data_.validation)
      validation.emplace(*data_.validation, validation_options(),
                         evaluation_sample_transform(image(), evaluation_resize(image())));
    settle_recipe(training.batches());
    trainer_options options = driver_options();
    training_loop::require_options(model_, options, training, validation ? &*validation : nullptr, processes_);
    auto const state = code_.make_training({validation_batch(), flags_.threads, state_options(options), &processes_});
    leave_raw(training, *state, {data_.training.packed() != nullptr, true, flags_.batch, *flags_.workers});
    if (validation)
      leave_raw(*validation, *state,
                {data_.validation->packed() != nullptr, false, validation_batch(), *flags_.workers});
    fill(*state);
    training_loop driver{*state,          std::move(options), training, validation ? &*validation : nullptr,
                         folder_.files(), processes_};
    if (from_) go_on(driver);
    if (stop_requested) return exit_stopped;
    make_room();
    if (processes_.rank() != 0) return follow(driver);
    training_log log{folder_.files().root(), flags_.rates.epochs, flags_.accumulate, flags_.log_interval,
                     driver.epoch(),         driver.steps(),      flags_.profile,    flags_.profile_data};
    log.text("configuration", "    " + arguments_.dump());
    log_ = &log;
    draw_ = [&](epoch_report const& e) {
      state->swap_average();
      auto const grid = class_map_grid(*state, *data_.validation, std::size_t(flags_.images));
      state->swap_average();
      if (grid) log.image("class_maps", e.step, *grid);
    };
    return finish(driver, log);
  }

 private:
  [[nodiscard]] bool on_host() const { return code_.backend() == run::backend::cpu; }
  [[nodiscard]] image_extent image() const { return {model_.image.height, model_.image.width}; }

  /// Leaves to the device what it is to do to a loader's pictures.
  void leave_raw(loader& pictures, training_state& state, picture_load const& load) const {
    std::pmr::memory_resource* const raw = state.raw_memory();
    device_pictures const given = choose_pictures(flags_.augment_on, flags_.decode_on, raw != nullptr, load);
    if (given.finishes) pictures.leave_raw(*raw, given.decodes ? state.picture_decoder() : nullptr);
  }

  /// The parameters to start with: of the seed, and where the flags name a file, of that.
  void fill(training_state& state) const {
    auto const numbers = std::get<training_numbers<float>>(state.numbers());
    initialise(model_, numbers.table, numbers.state, numbers.counters, flags_.seed);
    if (!from_ && !flags_.initial.empty()) start_from(numbers, flags_.initial);
    state.restart_average();
    state.push();
  }
  [[nodiscard]] bool check_data() const {
    bool const training = print_check("training", data_.training, *flags_.workers, decoding());
    return (!data_.validation || print_check("validation", *data_.validation, *flags_.workers, decoding())) && training;
  }
  /// Throws where a set cannot be what it was taken for, or fills no batch.
  void check_inputs() const {
    if (from_) detail::require_same_classes(*from_, known_, data_.training);
    if (std::size_t(flags_.batch) > data_.training.size())
      throw usage_error{"--batch-size " + std::to_string(flags_.batch) + " is more than the " +
                        counted(data_.training.size(), "picture") + " of " + data_.training.root().string()};
    require_readable_samples(data_.training, decoding());
    if (data_.validation) require_readable_samples(*data_.validation, decoding());
  }
  /// Chooses what follows from the run's length, and says what the run will be and what is odd about it.
  void settle_recipe(std::size_t batches) {
    run_length const length{batches, flags_.accumulate, flags_.rates.epochs};
    if (!flags_.ema_decay) flags_.ema_decay = default_ema_decay(length.steps);
    arguments_["model-ema-decay"] = *flags_.ema_decay;
    arguments_["precision"] = on_host() ? "fp32" : flags_.precision;
    compare_flags(resumed_, arguments_);
    describe_run(length);
    for (std::string const& line : recipe_notices(flags_, *flags_.ema_decay, length)) notice(line);
    if (flags_.tuning.freeze != "none" && !from_ && flags_.initial.empty())
      notice("--freeze " + flags_.tuning.freeze +
             " keeps layers at random numbers: --pretrained FILE starts elsewhere");
    if (flags_.amp && on_host()) notice("--amp changes nothing here: the CPU computes in float");
  }
  static void notice(std::string const& line) { std::cerr << "train: " << printable(line) << '\n'; }
  void warn_of_empty_classes(dataset const& set) const {
    if (auto const names = set.empty_classes(); !names.empty())
      notice(set.root().string() + " has no picture of " + (names.size() == 1 ? "the class " : "the classes ") +
             some_names(names));
  }
  void go_on(training_loop& driver) {
    resume_report const report = driver.resume(from_->file, !flags_.fresh_optimizer);
    std::cout << "resumed    " << printable(from_->file.string()) << " in epoch " << driver.epoch() + 1 << " after "
              << counted(std::size_t(driver.steps()), "step")
              << (flags_.fresh_optimizer ? ", the optimizer anew\n" : "\n");
    print_resumed_flags(resumed_);
    if (!report.best_left_out.empty()) std::cout << "best       begins anew: " << report.best_left_out << '\n';
    if (report.other_pictures)
      std::cout << "pictures   the training set has other pictures than it had, told by their names\n";
    std::cout << std::flush;
  }
  /// From here on the folder is this run's.
  void make_room() {
    if (processes_.rank() != 0) return;
    if (!folder_.goes_on_with(from_))
      folder_.begin(flags_.overwrite);
    else if (flags_.resume != "auto")
      folder_.go_back(*from_);
  }
  [[nodiscard]] int validation_batch() const {
    return flags_.validation_batch > 0 ? flags_.validation_batch : flags_.batch;
  }
  [[nodiscard]] decode_options decoding() const {
    return {.max_pixels = flags_.max_pixels, .max_scans = flags_.max_scans};
  }
  [[nodiscard]] loader_options training_options() const {
    return {.mode = loading::training,
            .image = image(),
            .batch = flags_.batch,
            .threads = *flags_.workers,
            .seed = flags_.seed,
            .rank = processes_.rank(),
            .world = processes_.size(),
            .group = flags_.accumulate,
            .max_bad = std::size_t(flags_.max_bad),
            .decoding = decoding(),
            .report = [this](file_error const& problem) { complain(problem); }};
  }
  [[nodiscard]] loader_options validation_options() const {
    loader_options o = training_options();
    o.mode = loading::evaluation;
    o.batch = validation_batch();
    o.label_maps = false;
    o.group = 0;
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
    o.optimizer = flags_.optimizer;
    std::tie(o.optimizer.beta1, o.optimizer.beta2) = flags_.betas;
    o.optimizer.tuning = flagged_tuning(flags_.tuning, model_table{model_}.entries());
    o.ema_decay = flags_.ema ? *flags_.ema_decay : 0;
    o.ema_warm_up = flags_.ema_warm_up;
    o.smoothing = flags_.smoothing;
    o.mix_token = flags_.mix_token;
    o.crops = flags_.crops;
    o.seed = flags_.seed;
    o.stop_after = flags_.stop_after;
    o.checkpoint_steps = flags_.checkpoint_steps;
    o.metadata = {{"arguments", arguments_.dump()},
                  {class_order_key, flags_.order == class_order::plain ? "plain" : "natural"},
                  {class_names_key, class_names_text(data_.training.class_names())}};
    o.on_step = [this](step_report const& s) {
      folder_.step_done();
      log_->step(s);
    };
    o.on_checkpoint = [this](std::filesystem::path const&) { folder_.checkpoint_written(); };
    o.on_epoch = [this](epoch_report const& e) {
      log_->epoch(e);
      bool const drawn = flags_.image_interval > 0 && data_.validation &&
                         ((e.epoch + 1) % flags_.image_interval == 0 || e.epoch + 1 == flags_.rates.epochs);
      if (drawn) draw_(e);
    };
    o.stop = &stop_requested;
    return o;
  }

  void start_from(training_numbers<float> const& numbers, std::filesystem::path const& path) const {
    tensor_file const file{path};
    print_notices("train", file, file.notices());
    pretrained_report report = load_pretrained(model_, numbers.table, numbers.state, numbers.counters, file);
    print_notices("train", file, report.notices);
    for (std::string& name : report.left_out) name = "'" + name + "' is no part of the model, and left out";
    print_notices("train", file, report.left_out);
    std::cout << "weights    " << printable(path.string()) << (file.averaged() ? " (averages): " : ": ")
              << counted(report.loaded, "tensor") << " loaded";
    if (std::size_t const fresh = report.reinitialised.size(); fresh > 0)
      std::cout << ", " << fresh << (fresh == 1 ? " begins anew" : " begin anew");
    std::cout << '\n';
    for (std::string const& line : report.lines) std::cout << "           " << printable(line) << '\n';
    std::cout << std::flush;
    auto const& anew = report.reinitialised;
    if (std::find(anew.begin(), anew.end(), "head.weight") == anew.end()) compare_classes(file);
  }
  /// Says where the head of the weights to start from may number the classes in another way.
  void compare_classes(tensor_file const& file) const {
    std::vector<std::string> const theirs = names_in_file("train", file, std::size_t(model_.classes));
    auto const ours = data_.training.class_names();
    if (theirs.empty() && detail::orders_differ(ours))
      notice(file.path().string() + " names no classes, and natural order (" + ours[0] +
             " ...) and torchvision's differ here: --class-order plain takes the other");
    if (!theirs.empty() && !std::equal(theirs.begin(), theirs.end(), ours.begin(), ours.end()))
      notice(file.path().string() + " has its classes under other names, or in another order, than " +
             data_.training.root().string());
  }

  [[nodiscard]] std::string tuning_line(std::span<parameter_entry const> table) const {
    optimizer_options o = flags_.optimizer;
    o.tuning = flagged_tuning(flags_.tuning, table);
    std::string const text = tuning_text(flags_.tuning, o, table);
    return text.empty() ? "" : "tuning     " + text + '\n';
  }
  void describe_run(run_length const& length) const {
    training_flags const& f = flags_;
    model_table const table{model_};
    std::cout << "model      " << describe(name_, model_) << ", " << grouped(table.parameter_count()) << " parameters"
              << std::endl;
    warn_of_empty_classes(data_.training);
    if (data_.validation) warn_of_empty_classes(*data_.validation);
    std::cout << "data       " << counted(data_.training.size(), "training picture") << ", "
              << (data_.validation ? grouped(data_.validation->size()) + " for validation" : "no validation set")
              << (f.labels.empty() ? ", hard labels" : ", label maps of " + printable(f.labels.string())) << '\n'
              << "batch      " << f.batch << " x " << f.accumulate << " = "
              << counted(std::size_t(f.batch) * std::size_t(f.accumulate), "picture") << " a step, "
              << counted(std::size_t(length.steps / f.rates.epochs), "step") << " an epoch, "
              << counted(std::size_t(f.rates.epochs), "epoch") << '\n'
              << "rate       " << short_number(f.rates.base) << " after "
              << counted(std::size_t(f.rates.warmup), "epoch") << " from " << short_number(f.rates.start)
              << ", cosine to " << short_number(f.rates.floor) << "; "
              << (f.optimizer.kind == optimizer_kind::lion ? "Lion" : "AdamW") << ", weight decay "
              << short_number(f.optimizer.weight_decay) << ", "
              << (f.ema ? "averages " + short_number(*f.ema_decay) : "no averages") << '\n'
              << tuning_line(table.entries()) << "memory     "
              << byte_size(code_.training_bytes(f.batch) + 5 * sizeof(float) * table.state_extent())
              << " for the network, on the " << (on_host() ? "CPU, fp32" : "GPU, " + flags_.precision) << '\n'
              << "run        " << printable(folder_.files().root().string()) << '\n';
    (void)output_written("train");
  }

  /// On a process that is not the first, which says it all.
  static int follow(training_loop& driver) {
    try {
      return driver.run() ? int{exit_ok} : int{exit_stopped};
    } catch (divergence_error const&) {
      return exit_diverged;
    }
  }
  int finish(training_loop& driver, training_log& log) {
    try {
      bool const whole = driver.run();
      log_ = nullptr;
      if (!whole) {
        log.say(driver.steps() == 0 ? std::string{"stopped before the first step"}
                                    : "stopped in epoch " + std::to_string(driver.epoch() + 1) + " after " +
                                          counted(std::size_t(driver.steps()), "step") + "; --resume auto goes on");
        return exit_stopped;
      }
      std::string best;
      if (data_.validation) best = ", top-1 " + percent(float(driver.best()));
      if (driver.best_epoch() >= 0)
        log.say("best epoch " + std::to_string(driver.best_epoch() + 1) + best + ": " +
                printable(folder_.files().best().string()));
      return exit_ok;
    } catch (divergence_error const& problem) {
      log.clear();
      std::cerr << "train: " << problem.what()
                << "\nThe checkpoints are from before. A lower --lr, or --clip-grad, may help.\n";
      return exit_diverged;
    }
  }

  training_flags flags_;
  std::optional<resume_point> from_;
  resumed_flags resumed_;
  nlohmann::ordered_json arguments_;
  std::vector<std::string> known_;  ///< the checkpoint's class names
  training_data& data_;
  training_folder& folder_;
  communicator& processes_;
  run::model_code const& code_;
  config const& model_;
  std::string name_;  ///< the model's
  training_log* log_ = nullptr;
  std::function<void(epoch_report const&)> draw_;
};

}  // namespace dm2::example
