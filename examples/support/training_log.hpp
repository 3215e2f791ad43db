/// @file
/// What a run tells while it goes on: a line for people, two CSV files, TensorBoard events.
#pragma once

#include <dm2/train/log/csv_log.hpp>
#include <dm2/train/log/progress.hpp>
#include <dm2/train/log/tensorboard_log.hpp>
#include <dm2/train/log/training_meter.hpp>
#include <dm2/train/trainer.hpp>

#include "command_line.hpp"
#include "data_profile.hpp"
#include "text.hpp"
#include "training_profile.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

namespace dm2::example {

/// Writes steps.csv, epochs.csv and events.out.tfevents.* into a run's folder, and lines to the terminal: a status line
/// where there is one, else a line every `interval` steps. Epochs count from 1 there, and accuracies are in percent.
class training_log {
 public:
  /// `epochs_done` and `steps_done`: where a resumed run goes on; later rows of the files are removed. `profile`: tells
  /// where the time goes, too; `profile_data`: where the data path's goes.
  training_log(std::filesystem::path const& folder, int epochs, int accumulate, int interval, int epochs_done,
               std::int64_t steps_done, bool profile = false, bool profile_data = false)
      : epochs_{epochs},
        accumulate_{accumulate},
        interval_{interval},
        resumed_{steps_done > 0 ? std::optional{steps_done} : std::nullopt},
        step_rows_{
            folder / "steps.csv", "step", {"loss", "lr", "gradient_norm", "images_per_second", "waiting"}, resumed_},
        epoch_rows_{folder / "epochs.csv",
                    "epoch",
                    {"train_loss", "val_loss", "top1", "top5", "lr", "images_per_second", "waiting", "seconds"},
                    resumed_ ? std::optional<std::int64_t>{epochs_done} : std::nullopt},
        board_{folder, resumed_} {
    if (profile) profile_.emplace(folder, resumed_);
    if (profile_data) data_profile_.emplace(folder, resumed_);
  }

  void text(std::string_view tag, std::string_view markdown) { board_.text(tag, resumed_.value_or(0), markdown); }
  void image(std::string_view tag, std::int64_t step, picture const& p) { board_.image(tag, step, p); }
  /// A line among the others. Where it cannot be written, that is said once, and the run goes on.
  void say(std::string const& line) {
    line_.clear();
    std::cout << line << '\n';
    (void)output_written("train");
  }

  void step(step_report const& s) {
    auto const now = clock::now();
    meter_.add(
        {s.loss, std::size_t(s.samples), s.waiting - waited_, std::chrono::duration<double>(now - last_).count()});
    last_ = now;
    waited_ = s.waiting;
    images_ += std::size_t(s.samples);
    if (profile_) profile_->add(s);
    if (data_profile_) data_profile_->add(s);
    training_position at{s.epoch + 1, epochs_, whole_steps(s.batch), whole_steps(s.batches), s.rate};
    if (line_.due()) line_.show(step_line(at));
    if (s.step % interval_ != 0) return;
    if (!stderr_is_terminal()) say(step_line(at));
    if (profile_) profile_->row(s.step, board_);
    if (data_profile_) data_profile_->row(s.step);
    std::optional<double> const norm = s.gradient_norm > 0 ? std::optional{s.gradient_norm} : std::nullopt;
    double const speed = meter_.images_per_second(), waiting = meter_.waiting_share();
    step_rows_.append(s.step, {s.loss, s.rate, norm, speed, waiting});
    board_.scalar("train/loss", s.step, s.loss);
    board_.scalar("train/lr", s.step, s.rate);
    if (norm) board_.scalar("train/gradient_norm", s.step, *norm);
    board_.scalar("speed/images_per_second", s.step, speed);
    board_.scalar("speed/waiting", s.step, waiting);
  }

  void epoch(epoch_report const& e) {
    evaluation const& v = e.validation;
    bool const validated = v.samples != 0;
    auto const seen = [&](double value) { return validated ? std::optional{value} : std::nullopt; };
    double const speed = e.seconds > 0 ? double(images_) / e.seconds : 0;
    double const waiting = e.seconds > 0 ? e.waiting / e.seconds : 0;
    epoch_rows_.append(e.epoch + 1, {e.train_loss, seen(v.loss()), seen(100 * v.accuracy()), seen(100 * v.accuracy5()),
                                     e.rate, speed, waiting, e.seconds});
    board_.scalar("epoch/train_loss", e.step, e.train_loss);
    if (validated) {
      board_.scalar("epoch/val_loss", e.step, v.loss());
      board_.scalar("epoch/top1", e.step, 100 * v.accuracy());
      board_.scalar("epoch/top5", e.step, 100 * v.accuracy5());
    }
    say(epoch_line(e, speed, waiting));
    if (profile_)
      for (std::string const& line : profile_->epoch(e, board_)) say(line);
    if (data_profile_)
      for (std::string const& line : data_profile_->epoch()) say(line);
    images_ = 0;
    meter_.restart();
    last_ = clock::now();
  }

  void clear() { line_.clear(); }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] std::int64_t whole_steps(std::size_t batches) const {
    std::size_t const each = std::size_t(accumulate_);
    return std::int64_t((batches + each - 1) / each);
  }

  [[nodiscard]] std::string step_line(training_position const& at) const {
    return training_line(at, meter_) + (profile_ ? profile_->line() : "");
  }
  [[nodiscard]] std::string epoch_line(epoch_report const& e, double speed, double waiting) const {
    std::array<char, 128> part;
    std::snprintf(part.data(), part.size(), "epoch %d/%d  loss %.4f", e.epoch + 1, epochs_, e.train_loss);
    std::string text = part.data();
    if (e.validation.samples != 0) {
      std::snprintf(part.data(), part.size(), "  validation %.4f  top-1 %.2f %%  top-5 %.2f %%", e.validation.loss(),
                    100 * e.validation.accuracy(), 100 * e.validation.accuracy5());
      text += part.data();
    }
    std::snprintf(part.data(), part.size(), "  lr %.1e  %.*f img/s  data %.0f %%  ", e.rate, speed < 100 ? 1 : 0, speed,
                  100 * waiting);
    text += part.data();
    if (e.exchanged.bytes > 0) {
      double const share = e.seconds > 0 ? e.exchanged.seconds / e.seconds : 0;
      std::snprintf(part.data(), part.size(), "exchange %.0f %%  slowest process %d +%.0f %%  ", 100 * share, e.slowest,
                    100 * e.lead);
      text += part.data();
    }
    return text + duration_text(e.seconds) + (e.best ? "  best" : "");
  }

  int epochs_, accumulate_, interval_;
  std::optional<std::int64_t> resumed_;
  csv_log step_rows_, epoch_rows_;
  tensorboard_log board_;
  std::optional<training_profile> profile_;
  std::optional<data_profile> data_profile_;
  training_meter meter_;
  status_line line_;
  clock::time_point last_ = clock::now();
  double waited_ = 0;
  std::size_t images_ = 0;  ///< of this epoch, in this process
};

}  // namespace dm2::example
