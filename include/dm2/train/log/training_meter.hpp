/// @file
/// A run's progress: mean loss, speed, time left, time spent waiting for data.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2 {

/// One training step's cost and loss.
struct step_record {
  double loss = 0;             ///< mean over the step's images
  std::size_t images = 0;      ///< of the step
  double waiting_seconds = 0;  ///< from asking for the images to having them
  double total_seconds = 0;    ///< of the whole step, waiting included
};

/// Adds up steps. Speeds are means in which a step counts for e^-1 once 50 later ones have been added, and so follow a
/// change within a minute or two without jumping; the loss is the plain mean over the images since the last restart.
class training_meter {
 public:
  /// Adds a step.
  void add(step_record const& step) noexcept {
    auto const count = static_cast<double>(step.images);
    loss_ += step.loss * count;
    seen_ += step.images;
    steps_ = memory * steps_ + 1;
    images_ = memory * images_ + count;
    waiting_ = memory * waiting_ + step.waiting_seconds;
    seconds_ = memory * seconds_ + step.total_seconds;
  }

  /// Begins a new mean of the loss, at the start of an epoch; the speeds go on.
  void restart() noexcept {
    loss_ = 0;
    seen_ = 0;
  }

  /// Images since the last restart.
  [[nodiscard]] std::size_t images() const noexcept { return seen_; }
  /// Mean loss of these images; 0 before the first. A loss that is not finite stays visible until the next restart.
  [[nodiscard]] double loss() const noexcept { return seen_ == 0 ? 0 : loss_ / static_cast<double>(seen_); }
  /// Images trained a second, over the latest steps; 0 before the first.
  [[nodiscard]] double images_per_second() const noexcept { return seconds_ > 0 ? images_ / seconds_ : 0; }
  /// Share of the time that was spent waiting for data, 0 to 1, over the latest steps.
  [[nodiscard]] double waiting_share() const noexcept { return seconds_ > 0 ? waiting_ / seconds_ : 0; }
  /// Seconds that `steps` more steps will take; 0 before the first.
  [[nodiscard]] double seconds_for(std::int64_t steps) const noexcept {
    return steps_ > 0 ? static_cast<double>(steps) * seconds_ / steps_ : 0;
  }

 private:
  static constexpr double memory = 0.9801986733067553;  // e^(-1/50)
  double loss_ = 0, steps_ = 0, images_ = 0, waiting_ = 0, seconds_ = 0;
  std::size_t seen_ = 0;
};

}  // namespace dm2
