/// @file
/// Whether a recipe suits a run's length, and what follows from it.
#pragma once

#include "text.hpp"
#include "training_flags.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace dm2::example {

/// How long a run is.
struct run_length {
  std::size_t batches = 0;  ///< micro-batches of an epoch
  std::int64_t steps = 0;   ///< optimizer steps of the whole schedule

  run_length(std::size_t batches_an_epoch, int accumulate, int epochs)
      : batches{batches_an_epoch},
        steps{std::int64_t((batches + std::size_t(accumulate) - 1) / std::size_t(accumulate)) * epochs} {}
};

/// The decay of the averages where none is asked for: the published 0.9999 from the published run's 375,000 steps on
/// (300 epochs of 1,281,167 pictures by 1,024). A shorter run averages over the same part of itself, 1 / 37.5, so that
/// its end does not depend on its first weights.
[[nodiscard]] inline double default_ema_decay(std::int64_t steps) {
  constexpr double published = 0.9999, published_steps = 375'000, averaged_part = 37.5;
  if (double(steps) >= published_steps) return published;
  return std::max(0.0, 1 - averaged_part / double(std::max<std::int64_t>(steps, 1)));
}

/// "0.003", "1e-05"
[[nodiscard]] inline std::string short_number(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

/// What of a recipe cannot work on a run of this length, a line each.
[[nodiscard]] inline std::vector<std::string> recipe_notices(training_flags const& f, double ema_decay,
                                                             run_length const& run) {
  std::vector<std::string> out;
  double const averaged = 1 / (1 - ema_decay);
  if (f.ema && !f.ema_warm_up && averaged > double(run.steps))
    out.push_back("--model-ema-decay " + short_number(ema_decay) + " averages over " +
                  counted(std::uint64_t(averaged + 0.5), "step") + ", the run has " +
                  grouped(std::uint64_t(run.steps)) +
                  ": validation and the best checkpoint will have little but the first weights; " +
                  short_number(default_ema_decay(run.steps)) + " suits it");
  if (f.rates.warmup > std::max(1, f.rates.epochs - 1))
    out.push_back("--warmup-epochs " + std::to_string(f.rates.warmup) + " is as long as the run of " +
                  counted(std::uint64_t(f.rates.epochs), "epoch") + ": the learning rate " +
                  short_number(f.rates.base) +
                  (f.rates.warmup > f.rates.epochs ? " is never reached" : " is reached in the last one"));
  if (std::size_t(f.accumulate) > run.batches)
    out.push_back("--grad-accum-steps " + std::to_string(f.accumulate) + ": an epoch has " +
                  counted(run.batches, "micro-batch", "micro-batches") +
                  ", so that no step is whole, and gradients are smaller");
  return out;
}

}  // namespace dm2::example
