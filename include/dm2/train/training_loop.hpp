/// @file
/// The training loop: epochs of accumulated steps, averages, validation, checkpoints, resumption.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/train/evaluate_batches.hpp>
#include <dm2/train/mix_box.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/steps.hpp>
#include <dm2/train/time_parts.hpp>
#include <dm2/train/trainer_options.hpp>
#include <dm2/train/training_file.hpp>
#include <dm2/train/training_state.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace dm2 {

/// What of a run's options its training state is made with.
[[nodiscard]] inline model_training_options state_options(trainer_options const& o) {
  return {{o.batch, o.accumulate, o.smoothing, o.crops}, o.optimizer, o.ema_decay, o.ema_warm_up};
}

/// Trains whatever training state over a loader: what trainer<C, Context> does, for any configuration and backend.
///
/// A run's numbers are a function of the options, the data and the number of compute threads, which is each process's
/// where there are several: not of the number of processes. A resumed run goes on with the bytes that an uninterrupted
/// one would have had, from whatever checkpoint, on any number of processes.
///
/// Several processes each make a state, loaders with their rank and a loop, with the same options, and call the same
/// things in the same order. Process 0 writes the checkpoints, and has the reports.
class training_loop {
 public:
  /// Throws unless the options are in range and fit the loaders, a model of configuration c and the processes, as the
  /// constructor does.
  static void require_options(config const& c, trainer_options const& o, loader const& training,
                              loader const* validation, communicator const& processes) {
    using detail::require_option;
    require_option(o.batch >= 1, "trainer: batch", o.batch, "at least 1");
    require_option(o.accumulate >= 1, "trainer: accumulate", o.accumulate, "at least 1");
    require_option(o.smoothing >= 0 && o.smoothing <= 1, "trainer: smoothing", o.smoothing, "0 to 1");
    require_option(o.stop_after >= 0, "trainer: stop_after", o.stop_after, "at least 1, or 0 for all epochs");
    require_option(o.checkpoint_steps >= 0, "trainer: checkpoint_steps", o.checkpoint_steps, "at least 0");
    require_schedule(o.rates);
    detail::require_loader(c, "trainer: the training loader", training, loading::training);
    if (training.options().batch != o.batch)
      throw shape_error{"trainer: the options say batches of " + std::to_string(o.batch) +
                        ", the training loader gives " + std::to_string(training.options().batch)};
    detail::require_dealing("trainer: the training loader", training, processes, o.accumulate);
    if (processes.size() > o.accumulate)
      throw std::invalid_argument{"trainer: " + std::to_string(processes.size()) + " processes share steps of " +
                                  std::to_string(o.accumulate) + " micro-batches: at most one process a micro-batch"};
    if (validation != nullptr) {
      detail::require_loader(c, "trainer: the validation loader", *validation, loading::evaluation);
      detail::require_dealing("trainer: the validation loader", *validation, processes, 0);
    }
  }

  /// The state holds the parameters to start with. `validation` may be null. The referenced objects outlive the
  /// loop. The training loader's groups are the options' accumulated micro-batches.
  ///
  /// Throws std::invalid_argument, with both values, if an option is out of range, or a loader has another batch, mode,
  /// rank or group than the options, or (as shape_error) other pictures or classes than the model; or if there are more
  /// processes than micro-batches in a step.
  training_loop(training_state& state, trainer_options options, loader& training, loader* validation, run_folder folder,
                communicator& processes = one_process())
      : state_{state},
        processes_{processes},
        options_{std::move(options)},
        training_{training},
        validation_{validation},
        folder_{std::move(folder)} {
    require_options(state.configuration(), options_, training, validation, processes);
  }

  training_loop(training_loop const&) = delete;
  training_loop& operator=(training_loop const&) = delete;

  /// Goes on from a training checkpoint; without `with_optimizer` with the momenta that the optimizer has, which are
  /// zero at first. Throws file_error as resume_training does, and if it was written with another batch, accumulation,
  /// seed or number of batches an epoch; nothing is changed then.
  resume_report resume(std::filesystem::path const& path, bool with_optimizer = true) {
    nlohmann::json const progress = read_checkpoint_head(path).progress;
    place const at = checked_place(progress, path);
    auto const steps = std::visit(
        [&](auto const& n) {
          return resume_training(path, state_.configuration(), state_.rule().kind, n, with_optimizer).steps;
        },
        state_.numbers());
    state_.set_steps({with_optimizer ? steps.optimizer : state_.steps().optimizer, steps.average});
    state_.push();
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
  /// Throws divergence_error, the loaders' exceptions, and file_error where a checkpoint cannot be written; the last
  /// one written is whole then.
  bool run() {
    int const end =
        options_.stop_after > 0 ? std::min(options_.stop_after, options_.rates.epochs) : options_.rates.epochs;
    try {
      if (epoch_ >= end) complete_folder();
      while (epoch_ < end)
        if (stopping() || !train_epoch() || !finish_epoch()) return false;
    } catch (non_finite const& n) {
      diverged(n);
    }
    return true;
  }

  /// The epoch that run() goes on in, from 0.
  [[nodiscard]] int epoch() const { return epoch_; }
  /// Optimizer steps so far.
  [[nodiscard]] std::int64_t steps() const { return earlier_steps_ + state_.steps().optimizer; }
  /// The best epoch's validation accuracy, 0 to 1, or without a validation set its negated training loss; 0 before
  /// there is one.
  [[nodiscard]] double best() const { return best_; }
  /// The epoch that best() is of, from 0; -1 before there is one.
  [[nodiscard]] int best_epoch() const { return best_epoch_; }

 private:
  using clock = std::chrono::steady_clock;

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
  [[nodiscard]] bool stop_asked() const { return options_.stop != nullptr && options_.stop->load(); }
  /// Whether a process was asked to stop: the same answer for all, which all ask for at the same place.
  [[nodiscard]] bool stopping() {
    char const own = stop_asked() ? 1 : 0;
    std::vector<char> all(std::size_t(processes_.size()));
    processes_.gather("stop", std::span<char const>{&own, 1}, std::span{all});
    return std::find(all.begin(), all.end(), 1) != all.end();
  }

  /// Every step from next_batch_ on; false if it was stopped, with a checkpoint.
  bool train_epoch() {
    time_parts const begin = reported_ = times();
    rate_ = options_.rates.rate(epoch_);
    training_.start(std::uint32_t(epoch_), next_batch_);
    while (next_batch_ < training_.batches()) {
      train_step();
      report_steps(false);
      bool const last = next_batch_ == training_.batches();
      if (last) break;
      // Several processes learn it with a step's result: then all of them stop after the same one.
      if (processes_.size() == 1 ? stop_asked() : stop_seen_) return save(folder_.last()), false;
      if (options_.checkpoint_steps > 0 && steps() % options_.checkpoint_steps == 0) save(folder_.last());
    }
    report_steps(true);
    epoch_times_ = times() - begin;
    return true;
  }
  /// This process's times since the loop was made.
  [[nodiscard]] time_parts times() {
    return {std::chrono::duration<double>(clock::now() - made_).count(),
            training_.seconds_waiting(),
            state_.seconds_computing(),
            processes_.sent(),
            training_.times(),
            state_.seconds_augmenting()};
  }
  /// What of an epoch's report is about its time. All processes call it.
  void report_times(epoch_report& report) {
    report.seconds = epoch_times_.total;
    report.waiting = epoch_times_.waiting;
    report.exchanged = epoch_times_.exchanged;
    report.processes = gather_times(processes_, epoch_times_);
    slowest_process const slowest{report.processes};
    report.slowest = slowest.rank;
    report.lead = slowest.lead;
  }

  /// One optimizer step: `accumulate` micro-batches, or as many as the epoch has left, a round of one for each process
  /// at a time.
  void train_step() {
    processes_.at_step(steps());
    int const micro = int(std::min(std::size_t(options_.accumulate), training_.batches() - next_batch_));
    for (int done = 0; done < micro; done += processes_.size()) {
      int const count = std::min(processes_.size(), micro - done);
      if (processes_.rank() < count) micro_batch(next_batch_ + std::size_t(processes_.rank()));
      state_.finish_round(count, {epoch_, steps(), next_batch_}, stop_asked());
      next_batch_ += std::size_t(count);
    }
    state_.finish_step(rate_);
    step_report r{epoch_, steps(), next_batch_, training_.batches(), rate_};
    r.samples = micro * options_.batch;
    r.waiting = training_.seconds_waiting();
    unreported_.push_back(r);
  }

  /// Micro-batch `number` of the epoch.
  void micro_batch(std::size_t number) {
    batch const* const b = training_.next();
    if (b == nullptr || b->size != options_.batch || b->number != number)
      throw std::logic_error{"dm2::trainer: the loader gave another batch than number " + std::to_string(number)};
    config const& c = state_.configuration();
    // samples draw with stream numbers below 2^32, so the batches' boxes stand above them
    random_stream random{options_.seed, std::uint32_t(epoch_), (std::uint64_t{1} << 32) + number};
    state_.micro_batch(
        *b, options_.mix_token ? draw_mix_box(c.image.height / c.patch, c.image.width / c.patch, random) : mix_box{},
        1.0 / options_.accumulate);
  }

  /// Reports the steps whose results are there; with `wait`, all of them.
  void report_steps(bool wait) {
    while (auto const result = state_.next_result(wait)) {
      stop_seen_ = stop_seen_ || result->stop;
      step_report r = unreported_.front();
      unreported_.pop_front();
      double sum = 0;
      for (double const loss : result->losses) sum += loss, loss_sum_ += loss;
      r.loss = sum / double(result->losses.size());
      r.gradient_norm = result->gradient_norm;
      time_parts const now = times();
      r.times = now - std::exchange(reported_, now);
      if (options_.on_step && first_process()) options_.on_step(r);
    }
  }

  /// The process that computed the number looks for the tensor, and tells the others.
  [[noreturn]] void diverged(non_finite const& n) {
    state_.pull();
    std::string text = processes_.rank() == n.process ? divergence(n) : "";
    std::size_t length = text.size();
    processes_.broadcast("divergence", std::span{&length, 1}, n.process);
    text.resize(length);
    processes_.broadcast("divergence", std::span{text}, n.process);
    throw divergence_error{text};
  }
  /// Where the number is not finite, and the first tensors in which one is not.
  [[nodiscard]] std::string divergence(non_finite const& n) {
    std::string text = "the " + std::string{n.what} + " is not finite in epoch " + std::to_string(n.at.epoch + 1) +
                       ", step " + std::to_string(n.at.step + 1) + " (micro-batch " + std::to_string(n.at.batch + 1) +
                       ")";
    auto const add = [&](char const* kind, std::string const& name) {
      if (!name.empty()) text += std::string{"; first bad "} + kind + ": " + name;
    };
    add("picture of the batch", std::visit([&](auto pictures) { return bad_picture(pictures); }, state_.pictures()));
    any_values const gradients = state_.gradients();
    std::visit(
        [&](auto const& numbers) {
          std::span const weights{numbers.state};
          add("weight", first_bad(numbers.table, weights, entry_kind::parameter, entry_kind::unused));
          add("statistic", first_bad(numbers.table, weights, entry_kind::statistic));  // bad through what went into it
          std::visit([&](auto g) { add("gradient", first_bad(numbers.table, g, entry_kind::parameter)); }, gradients);
        },
        state_.numbers());
    return text;
  }
  /// The number of the first picture that is not finite; nothing where all are.
  template <class T>
  [[nodiscard]] std::string bad_picture(std::span<T const> pictures) const {
    auto const bad = std::find_if(pictures.begin(), pictures.end(), [](T v) { return !std::isfinite(v); });
    config const& c = state_.configuration();
    std::size_t const each = std::size_t(c.channels) * std::size_t(c.image.height) * std::size_t(c.image.width);
    return bad == pictures.end() ? "" : std::to_string(std::size_t(bad - pictures.begin()) / each);
  }
  /// The name of the first entry of these kinds whose values are not finite; nothing where all are.
  template <class T, class... Kind>
  [[nodiscard]] static std::string first_bad(std::span<parameter_entry const> table, std::span<T> values,
                                             Kind... kinds) {
    for (parameter_entry const& e : table) {
      if (((e.kind != kinds) && ...)) continue;
      for (T const v : values.subspan(e.offset, e.size))
        if (!std::isfinite(v)) return std::string{e.name};
    }
    return {};
  }

  /// Accuracy of the averaged weights; false if it was stopped.
  bool validate(evaluation& result) {
    state_.pull();
    state_.swap_average();
    try {
      result = detail::evaluate_batches(
          *validation_, [&](batch const& b) { return state_.count(b); }, [&](std::size_t) { return !stop_asked(); },
          processes_);
    } catch (...) {
      state_.swap_average();
      throw;
    }
    state_.swap_average();
    return !stopping();
  }

  /// Validation, the step to the next epoch, and checkpoints; false if it was stopped before, with a checkpoint of an
  /// epoch without steps left.
  bool finish_epoch() {
    require_same_state();
    epoch_report report;
    report.epoch = epoch_;
    report.step = steps();
    report.rate = rate_;
    report.train_loss = loss_sum_ / double(training_.batches());
    report_times(report);
    double const before = times().total;
    if (validation_ != nullptr && !validate(report.validation)) return save(folder_.last()), false;
    report.validating = times().total - before;
    double const score = validation_ != nullptr ? report.validation.accuracy() : -report.train_loss;
    report.best = best_epoch_ < 0 || score > best_;
    if (report.best) {
      best_ = score;
      best_epoch_ = epoch_;
    }
    if (options_.on_epoch && first_process()) options_.on_epoch(report);
    next_batch_ = 0;
    loss_sum_ = 0;
    ++epoch_;  // done: the checkpoints say where to go on
    if (report.best) save(folder_.best());
    save(folder_.of_epoch(epoch_));
    if (first_process()) folder_.keep_history(epoch_);
    save(folder_.last());
    return true;
  }

  /// Writes what the last epoch's checkpoints lack where a run ended between them: the best one was there, and is what
  /// this run goes on from, the last one was not.
  void complete_folder() {
    if (!std::exchange(from_elsewhere_, false)) return;
    save(folder_.of_epoch(epoch_));
    if (first_process()) folder_.keep_history(epoch_);
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
  /// Throws process_error, on every process, where one has another state than process 0.
  void require_same_state() {
    if (processes_.size() == 1) return;
    state_.pull();
    std::uint64_t own = 0xcbf29ce484222325;  // FNV-1a, a number at a time
    auto const add = [&own](auto const x) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, &x, sizeof x);
      own = (own ^ bits) * 0x100000001b3;
    };
    std::visit([&](auto const& n) { std::for_each(n.state.begin(), n.state.end(), add); }, state_.numbers());
    std::vector<std::uint64_t> all(std::size_t(processes_.size()));
    processes_.gather("hash of the weights", std::span<std::uint64_t const>{&own, 1}, std::span{all});
    for (std::size_t r = 1; r < all.size(); ++r)
      if (all[r] != all[0])
        throw process_error{"process " + std::to_string(r) + " has other weights than process 0 after epoch " +
                            std::to_string(epoch_ + 1) + "; a run cannot go on so"};
  }
  /// Process 0 writes; the others learn whether it could.
  void save(std::filesystem::path const& path) {
    if (path.empty()) return;
    report_steps(true);
    state_.pull();
    char written = 1;
    std::exception_ptr problem;
    if (first_process()) {
      try {
        training_head const head{state_.configuration(), state_.rule().kind, state_.steps(), own_progress(),
                                 options_.metadata};
        std::visit([&](auto const& n) { save_training(path, n, head); }, state_.numbers());
      } catch (...) {
        problem = std::current_exception();
        written = 0;
      }
    }
    processes_.broadcast("checkpoint", std::span{&written, 1});
    if (problem) std::rethrow_exception(problem);
    if (written == 0) throw process_error{"process 0 could not write " + path.string()};
    if (options_.on_checkpoint && first_process()) options_.on_checkpoint(path);
  }
  [[nodiscard]] bool first_process() const { return processes_.rank() == 0; }

  training_state& state_;
  communicator& processes_;
  trainer_options options_;
  loader& training_;
  loader* validation_;
  run_folder folder_;
  std::deque<step_report> unreported_;
  int epoch_ = 0, best_epoch_ = -1;
  bool from_elsewhere_ = false;  ///< resumed from another checkpoint than the folder's last
  std::size_t next_batch_ = 0;
  std::int64_t earlier_steps_ = 0;  ///< of an optimizer whose state was not resumed
  double loss_sum_ = 0, best_ = 0, rate_ = 0;
  bool stop_seen_ = false;
  clock::time_point made_ = clock::now();
  time_parts epoch_times_, reported_;
};

}  // namespace dm2
