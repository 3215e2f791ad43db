/// @file
/// The steps of a training run: their sizes, places and results.
#pragma once

#include <dm2/core/label_map.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2 {

/// A step engine's sizes and targets.
struct step_options {
  int batch = 256;                                     ///< samples of a micro-batch
  int accumulate = 4;                                  ///< the most micro-batches of a step
  double smoothing = 0.1;                              ///< of the targets
  crop_convention crops = crop_convention::published;  ///< how label maps are cut; unused without them
};

/// Where in a run a micro-batch stands.
struct step_place {
  int epoch = 0;          ///< from 0
  std::int64_t step = 0;  ///< optimizer steps before it
  std::size_t batch = 0;  ///< micro-batches of the epoch before it
};

/// Thrown where a number is not finite.
struct non_finite {
  char const* what;  ///< "loss" or "gradient"
  step_place at;     ///< the micro-batch
  int process = 0;   ///< that computed it
};

/// A step's losses and gradient norm.
struct step_result {
  std::vector<double> losses;  ///< of each micro-batch
  double gradient_norm = 0;    ///< before clipping; 0 where clipping is off
  bool stop = false;           ///< a process was asked to stop
};

}  // namespace dm2
