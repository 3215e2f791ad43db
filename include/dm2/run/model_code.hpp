/// @file
/// The compiled code of one configuration on one backend.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/network.hpp>
#include <dm2/train/training_state.hpp>

#include <cstddef>
#include <memory>

namespace dm2::run {

/// What a training state is made for.
struct training_request {
  int batch = 1;                      ///< pictures of a validation batch
  int threads = 0;                    ///< that compute on a CPU; 0: one a processor
  model_training_options options{};   ///< of the steps
  communicator* processes = nullptr;  ///< of the run; outlives the state
};

/// Code that was compiled for one configuration and backend: into the program, or into a shared object. It makes
/// networks and training states of that configuration. It lives as long as the program, and any thread may use it.
class model_code {
 public:
  virtual ~model_code() = default;

  /// What it was compiled for.
  [[nodiscard]] virtual config const& configuration() const = 0;
  /// Where it computes.
  [[nodiscard]] virtual run::backend backend() const = 0;

  /// A network for evaluations of up to `batch` pictures, with `threads` (0: one a processor) on a CPU; all parameters
  /// zero. Throws shape_error, std::bad_alloc, cuda::error.
  [[nodiscard]] virtual std::unique_ptr<network> make_network(int batch, int threads) const = 0;
  /// A model to train, all parameters zero, with its optimizer, average and engine. After the parameters are filled in,
  /// restart_average() and push() take them over. Throws as their constructors do, and std::logic_error where the
  /// backend does not train (trains).
  [[nodiscard]] virtual std::unique_ptr<training_state> make_training(training_request const& request) const = 0;
  /// Bytes that a training pass of that batch plans, weights left out; 0 where the backend does not train.
  [[nodiscard]] virtual std::size_t training_bytes(int batch) const = 0;
};

}  // namespace dm2::run
