/// @file
/// The training loop: epochs of accumulated steps, averages, validation, checkpoints, resumption.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/evaluate.hpp>
#include <dm2/train/mix_box.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/step_engine.hpp>
#include <dm2/train/training_file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace dm2 {

/// Training met a number that is not finite. what() names the epoch and the step, counted from 1, and the first tensor
/// that holds one.
struct divergence_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What one epoch amounted to.
struct epoch_report {
  int epoch = 0;          ///< from 0
  std::int64_t step = 0;  ///< optimiser steps so far
  double rate = 0;        ///< learning rate
  double train_loss = 0;  ///< mean over the epoch's micro-batches
  evaluation validation;  ///< of the averaged weights; no samples without a validation set
  bool best = false;      ///< validation accuracy, or without a validation set the loss, is the run's best so far
  double seconds = 0;     ///< that the epoch's training took, validation left out
  double waiting = 0;     ///< seconds of those spent waiting for data
};

/// What one optimiser step amounted to.
struct step_report {
  int epoch = 0;             ///< from 0
  std::int64_t step = 0;     ///< optimiser steps so far, this one included
  std::size_t batch = 0;     ///< micro-batches done in the epoch
  std::size_t batches = 0;   ///< micro-batches of the whole epoch
  double rate = 0;           ///< learning rate
  double loss = 0;           ///< mean over the step's micro-batches
  double gradient_norm = 0;  ///< before clipping; 0 where clipping is off
  int samples = 0;           ///< in this step
  double waiting = 0;        ///< seconds waited for data since the loader was made
};

/// The defaults are the published recipe's.
struct trainer_options {
  int batch = 256;                                     ///< samples of a micro-batch
  int accumulate = 4;                                  ///< micro-batches a step; each one's loss is divided by this
  schedule rates{};                                    ///< learning rate of each epoch, and how many epochs
  optimizer_options optimiser{};                       ///< the rule that moves the weights
  double ema_decay = 0.9999;                           ///< part of the weights' average that a step keeps
  bool ema_warm_up = false;                            ///< start with a smaller decay (ema)
  double smoothing = 0.1;                              ///< of the targets: 0 for none, 1 for uniform (label_smoothing)
  bool mix_token = true;                               ///< samples exchange a box of patches, one a micro-batch
  crop_convention crops = crop_convention::published;  ///< how label maps are cut; unused without them
  std::uint64_t seed = 0;                              ///< of the boxes; the loader's draws have its own
  int stop_after = 0;                 ///< end after this many epochs, for a part of a longer schedule; 0 for all
  std::int64_t checkpoint_steps = 0;  ///< write the last checkpoint every so many steps too; 0 after epochs only
  std::map<std::string, std::string> metadata{};        ///< added to every checkpoint
  std::function<void(step_report const&)> on_step{};    ///< after each optimiser step, by the thread in run()
  std::function<void(epoch_report const&)> on_epoch{};  ///< after the epoch's validation, before its checkpoint
  std::function<void(std::filesystem::path const&)> on_checkpoint{};  ///< after each checkpoint that is on the disk
  std::atomic<bool> const* stop =
      nullptr;  ///< set from a signal handler: the run ends after the present step, with a checkpoint
};

/// In what a resumed run differs from the one that wrote its checkpoint.
struct resume_report {
  /// Why the best epoch so far does not count any more: it was told by another measure (accuracy, or without a
  /// validation set the loss), or on other pictures. Empty where it counts, and where there was none.
  std::string best_left_out;
  bool other_pictures = false;  ///< the training set has other classes, or names of pictures, than it had
};

/// Trains a model over a loader.
///
/// A run's numbers are a function of the options, the data and the number of compute threads. A resumed run goes on
/// with the bytes that an uninterrupted one would have had, from whatever checkpoint.
template <config C, class Context>
class trainer {
 public:
  /// The type of weights, pictures and gradients.
  using scalar = typename Context::scalar;

  /// The model holds the parameters to start with. `validation` may be null. The referenced objects outlive the
  /// trainer.
  ///
  /// Throws std::invalid_argument, with both values, if an option is out of range, or a loader has another batch or
  /// mode than the trainer, or (as shape_error) other pictures or classes than the model.
  trainer(model<C, Context>& net, trainer_options options, loader& training, loader* validation, run_folder folder)
      : net_{net},
        options_{checked(std::move(options), training, validation)},
        training_{training},
        validation_{validation},
        folder_{std::move(folder)},
        optimiser_{options_.optimiser},
        average_{net, options_.ema_decay, options_.ema_warm_up},
        engine_{net, optimiser_, average_, {options_.batch, options_.accumulate, options_.smoothing, options_.crops}} {}

  trainer(trainer const&) = delete;
  trainer& operator=(trainer const&) = delete;

  /// Goes on from a training checkpoint; without `with_optimizer` with the momenta that the optimiser has, which are
  /// zero at first. Throws file_error as resume_training does, and if it was written with another batch, accumulation,
  /// seed or number of batches an epoch; nothing is changed then.
  resume_report resume(std::filesystem::path const& path, bool with_optimizer = true) {
    nlohmann::json const progress = read_checkpoint_head(path).progress;
    place const at = checked_place(progress, path);
    resume_training(path, net_, average_, optimiser_, with_optimizer);
    engine_.push();
    epoch_ = at.epoch;
    next_batch_ = at.next_batch;
    loss_sum_ = at.loss_sum;
    earlier_steps_ = at.earlier_steps + (with_optimizer ? 0 : at.optimizer_steps);
    best_ = at.best;
    best_epoch_ = at.best_epoch;
    std::error_code ignored;
    from_elsewhere_ = !std::filesystem::equivalent(path, folder_.last(), ignored);
    resume_report report;
    if (best_epoch_ >= 0) report.best_left_out = incomparable(progress);
    if (!report.best_left_out.empty()) best_ = 0, best_epoch_ = -1;
    report.other_pictures = progress.contains("training_set") && progress["training_set"] != fingerprint(&training_);
    return report;
  }

  /// Trains to the last epoch, or until options.stop is set, which ends a validation too; returns whether it came to
  /// the end.
  ///
  /// Throws divergence_error, what the loaders throw, and file_error where a checkpoint cannot be written; the last one
  /// that was written is whole then.
  bool run() {
    int const end =
        options_.stop_after > 0 ? std::min(options_.stop_after, options_.rates.epochs) : options_.rates.epochs;
    try {
      if (epoch_ >= end) complete_folder();
      for (; epoch_ < end; ++epoch_)
        if (stopping() || !train_epoch() || !finish_epoch()) return false;
    } catch (non_finite const& n) {
      diverged(n);
    }
    return true;
  }

  /// The epoch that run() goes on in, from 0.
  [[nodiscard]] int epoch() const { return epoch_; }
  /// Optimiser steps so far.
  [[nodiscard]] std::int64_t steps() const { return earlier_steps_ + optimiser_.steps(); }
  /// The best epoch's validation accuracy, 0 to 1, or without a validation set its negated training loss; 0 before
  /// there is one.
  [[nodiscard]] double best() const { return best_; }
  /// The epoch that best() is of, from 0; -1 before there is one.
  [[nodiscard]] int best_epoch() const { return best_epoch_; }
  /// The averaged weights.
  [[nodiscard]] ema<C, Context>& average() { return average_; }

 private:
  using clock = std::chrono::steady_clock;

  static trainer_options checked(trainer_options o, loader const& training, loader const* validation) {
    using detail::require_option;
    require_option(o.batch >= 1, "trainer: batch", o.batch, "at least 1");
    require_option(o.accumulate >= 1, "trainer: accumulate", o.accumulate, "at least 1");
    require_option(o.smoothing >= 0 && o.smoothing <= 1, "trainer: smoothing", o.smoothing, "0 to 1");
    require_option(o.stop_after >= 0, "trainer: stop_after", o.stop_after, "at least 1, or 0 for all epochs");
    require_option(o.checkpoint_steps >= 0, "trainer: checkpoint_steps", o.checkpoint_steps, "at least 0");
    require_schedule(o.rates);
    detail::require_loader<C>("trainer: the training loader", training, loading::training);
    if (training.options().batch != o.batch)
      throw shape_error{"trainer: the options say batches of " + std::to_string(o.batch) +
                        ", the training loader gives " + std::to_string(training.options().batch)};
    if (validation != nullptr)
      detail::require_loader<C>("trainer: the validation loader", *validation, loading::evaluation);
    return o;
  }
  /// Where a checkpoint says that its run was.
  struct place {
    int epoch = 0, best_epoch = -1;
    std::size_t next_batch = 0;
    std::int64_t earlier_steps = 0, optimizer_steps = 0;
    double loss_sum = 0, best = 0;
  };
  /// Throws file_error where the checkpoint is of a run that this one cannot go on with.
  [[nodiscard]] place checked_place(nlohmann::json const& progress, std::filesystem::path const& path) const {
    nlohmann::json const own = own_progress();
    for (char const* key : {"batch", "accumulate", "seed", "batches"}) {
      auto const found = progress.find(key);
      if (found == progress.end()) throw file_error{path, "its training metadata lack where the run is"};
      if (*found != own.at(key))
        throw file_error{path, std::string{"was written with "} + key + " " + found->dump().substr(0, 40) + ", not " +
                                   own.at(key).dump()};
    }
    using detail::most_steps, detail::progress_number, detail::progress_value;
    place at;
    at.epoch = int(progress_number(progress, "epoch", 0, 1'000'000'000, path));
    at.best_epoch = int(progress_number(progress, "best_epoch", -1, at.epoch, path));
    at.next_batch = std::size_t(progress_number(progress, "next_batch", 0, std::int64_t(training_.batches()), path));
    at.optimizer_steps = progress_number(progress, "optimizer_steps", 0, most_steps, path);
    if (progress.contains("earlier_steps"))
      at.earlier_steps = progress_number(progress, "earlier_steps", 0, most_steps, path);
    at.loss_sum = progress_value(progress, "loss_sum", path);
    at.best = progress_value(progress, "best", path);
    return at;
  }
  [[nodiscard]] char const* measure() const { return validation_ != nullptr ? "accuracy" : "loss"; }
  /// Why a checkpoint's best epoch cannot be compared with this run's epochs; empty where it can.
  [[nodiscard]] std::string incomparable(nlohmann::json const& progress) const {
    auto const told = progress.find("measure");
    bool const accuracy = told != progress.end() ? *told == "accuracy" : progress.at("best") >= 0;  // an older file
    if (accuracy != (validation_ != nullptr))
      return accuracy ? "it was told by the validation accuracy, and now there is no validation set"
                      : "it was told by the training loss, and now there is a validation set";
    auto const set = progress.find("validation_set");
    return set == progress.end() || *set == fingerprint(validation_) ? "" : "the validation pictures were others";
  }
  /// Names a loader's set; null without one.
  [[nodiscard]] static nlohmann::json fingerprint(loader const* samples) {
    return samples == nullptr ? nlohmann::json{} : nlohmann::json(samples->set().fingerprint());
  }
  [[nodiscard]] bool stopping() const { return options_.stop != nullptr && options_.stop->load(); }

  /// Every step from next_batch_ on; false if it was stopped, with a checkpoint.
  bool train_epoch() {
    auto const begin = clock::now();
    double const waited = training_.seconds_waiting();
    rate_ = options_.rates.rate(epoch_);
    training_.start(std::uint32_t(epoch_), next_batch_);
    while (next_batch_ < training_.batches()) {
      train_step();
      report_steps(false);
      bool const last = next_batch_ == training_.batches();
      if (last) break;
      if (stopping()) return save(folder_.last()), false;
      if (options_.checkpoint_steps > 0 && steps() % options_.checkpoint_steps == 0) save(folder_.last());
    }
    report_steps(true);
    seconds_ = std::chrono::duration<double>(clock::now() - begin).count();
    waiting_ = training_.seconds_waiting() - waited;
    return true;
  }

  /// One optimiser step: `accumulate` micro-batches, or as many as the epoch has left.
  void train_step() {
    int micro = 0;
    for (; micro < options_.accumulate && next_batch_ < training_.batches(); ++micro) micro_batch();
    engine_.finish_step(rate_);
    step_report r{epoch_, steps(), next_batch_, training_.batches(), rate_};
    r.samples = micro * options_.batch;
    r.waiting = training_.seconds_waiting();
    unreported_.push_back(r);
  }

  void micro_batch() {
    batch const* const b = training_.next();
    if (b == nullptr || b->size != options_.batch)
      throw std::logic_error{"dm2::trainer: the loader gave no whole batch"};
    constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
    // samples draw with stream numbers below 2^32, so the batches' boxes stand above them
    random_stream random{options_.seed, std::uint32_t(epoch_), (std::uint64_t{1} << 32) + next_batch_};
    engine_.micro_batch(*b, options_.mix_token ? draw_mix_box(height, width, random) : mix_box{},
                        1.0 / options_.accumulate, {epoch_, steps(), next_batch_});
    ++next_batch_;
  }

  /// Reports the steps whose results are there; with `wait`, all of them.
  void report_steps(bool wait) {
    while (auto const result = engine_.next_result(wait)) {
      step_report r = unreported_.front();
      unreported_.pop_front();
      double sum = 0;
      for (double const loss : result->losses) sum += loss, loss_sum_ += loss;
      r.loss = sum / double(result->losses.size());
      r.gradient_norm = result->gradient_norm;
      if (options_.on_step) options_.on_step(r);
    }
  }

  [[noreturn]] void diverged(non_finite const& n) {
    engine_.pull();
    auto const first_bad = [&](std::span<scalar const> values, auto... kinds) -> std::string {
      for (parameter_entry const& e : net_.table()) {
        if (((e.kind != kinds) && ...)) continue;
        for (scalar v : values.subspan(e.offset, e.size))
          if (!std::isfinite(v)) return std::string{e.name};
      }
      return {};
    };
    std::string text = "the " + std::string{n.what} + " is not finite in epoch " + std::to_string(n.at.epoch + 1) +
                       ", step " + std::to_string(n.at.step + 1) + " (micro-batch " + std::to_string(n.at.batch + 1) +
                       ")";
    auto const add = [&](char const* kind, std::string const& name) {
      if (!name.empty()) text += std::string{"; first bad "} + kind + ": " + name;
    };
    auto const pictures = engine_.pictures();
    auto const bad_picture = std::find_if(pictures.begin(), pictures.end(), [](scalar v) { return !std::isfinite(v); });
    if (bad_picture != pictures.end())
      add("picture of the batch", std::to_string(std::size_t(bad_picture - pictures.begin()) / net_.pixels));
    add("weight", first_bad(net_.state(), entry_kind::parameter, entry_kind::unused));
    add("statistic", first_bad(net_.state(), entry_kind::statistic));  // bad through what went into it
    add("gradient", first_bad(engine_.gradients(), entry_kind::parameter));
    throw divergence_error{text};
  }

  /// Accuracy of the averaged weights; false if it was stopped.
  bool validate(evaluation& result) {
    engine_.pull();
    average_.swap(net_);
    try {
      result = evaluate(net_, *validation_, [&](std::size_t) { return !stopping(); });
    } catch (...) {
      average_.swap(net_);
      throw;
    }
    average_.swap(net_);
    return !stopping();
  }

  /// Validation and checkpoints; false if it was stopped before, with a checkpoint of an epoch without steps left.
  bool finish_epoch() {
    epoch_report report{epoch_, steps(), rate_, loss_sum_ / double(training_.batches()), {}, false, seconds_, waiting_};
    if (validation_ != nullptr && !validate(report.validation)) return save(folder_.last()), false;
    double const score = validation_ != nullptr ? report.validation.accuracy() : -report.train_loss;
    report.best = best_epoch_ < 0 || score > best_;
    if (report.best) {
      best_ = score;
      best_epoch_ = epoch_;
    }
    if (options_.on_epoch) options_.on_epoch(report);
    next_batch_ = 0;
    loss_sum_ = 0;
    ++epoch_;  // the checkpoint says where to go on
    if (report.best) save(folder_.best());
    save(folder_.of_epoch(epoch_));
    folder_.keep_history(epoch_);
    save(folder_.last());
    --epoch_;
    return true;
  }

  /// Writes what the last epoch's checkpoints lack where a run ended between them: the best one was there, and is what
  /// this run goes on from, the last one was not.
  void complete_folder() {
    if (!std::exchange(from_elsewhere_, false)) return;
    save(folder_.of_epoch(epoch_));
    folder_.keep_history(epoch_);
    save(folder_.last());
  }

  [[nodiscard]] nlohmann::json own_progress() const {
    return {{"epoch", epoch_},
            {"next_batch", next_batch_},
            {"loss_sum", loss_sum_},
            {"best", best_},
            {"best_epoch", best_epoch_},
            {"batches", training_.batches()},
            {"batch", options_.batch},
            {"accumulate", options_.accumulate},
            {"seed", options_.seed},
            {"earlier_steps", earlier_steps_},
            {"measure", measure()},
            {"training_set", fingerprint(&training_)},
            {"validation_set", fingerprint(validation_)}};
  }
  void save(std::filesystem::path const& path) {
    if (path.empty()) return;
    report_steps(true);
    engine_.pull();
    save_training(path, net_, average_, optimiser_, own_progress(), options_.metadata);
    if (options_.on_checkpoint) options_.on_checkpoint(path);
  }

  model<C, Context>& net_;
  trainer_options options_;
  loader& training_;
  loader* validation_;
  run_folder folder_;
  optimizer<C, Context> optimiser_;
  ema<C, Context> average_;
  step_engine<C, Context> engine_;
  std::deque<step_report> unreported_;
  int epoch_ = 0, best_epoch_ = -1;
  bool from_elsewhere_ = false;  ///< resumed from another checkpoint than the folder's last
  std::size_t next_batch_ = 0;
  std::int64_t earlier_steps_ = 0;  ///< of an optimiser whose state was not resumed
  double loss_sum_ = 0, best_ = 0, rate_ = 0, seconds_ = 0, waiting_ = 0;
};

}  // namespace dm2
