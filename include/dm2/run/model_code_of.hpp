/// @file
/// A configuration's code as one object, from separately compiled parts.
#pragma once

#include <dm2/run/model_code.hpp>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>

namespace dm2::run {

// Defined in training_of.hpp, which a unit of its own includes.
template <config C>
[[nodiscard]] std::unique_ptr<training_state> make_cpu_training(training_request const& request);
template <config C>
[[nodiscard]] std::size_t cpu_training_bytes(int batch);

/// The functions that a model's units define; training is null where the backend does not train.
struct model_parts {
  /// Makes a network.
  using network_maker = std::unique_ptr<run::network> (*)(int batch, int threads);
  /// Makes a training state.
  using training_maker = std::unique_ptr<training_state> (*)(training_request const& request);
  /// Bytes of a training pass.
  using byte_counter = std::size_t (*)(int batch);

  network_maker network;        ///< as model_code::make_network
  training_maker training;      ///< as model_code::make_training
  byte_counter training_bytes;  ///< as model_code::training_bytes
};

/// The code that these parts make.
class model_code_of final : public model_code {
 public:
  /// Of a configuration and a backend.
  model_code_of(config const& c, run::backend where, model_parts const& parts)
      : configuration_{c}, backend_{where}, parts_{parts} {}

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] run::backend backend() const override { return backend_; }
  [[nodiscard]] std::unique_ptr<network> make_network(int batch, int threads) const override {
    return parts_.network(batch, threads);
  }
  [[nodiscard]] std::unique_ptr<training_state> make_training(training_request const& request) const override {
    if (parts_.training == nullptr)
      throw std::logic_error{"dm2::run::model_code: " + std::string{name_of(backend_)} + " is for inference"};
    return parts_.training(request);
  }
  [[nodiscard]] std::size_t training_bytes(int batch) const override {
    return parts_.training_bytes == nullptr ? 0 : parts_.training_bytes(batch);
  }

 private:
  config configuration_;
  run::backend backend_;
  model_parts parts_;
};

}  // namespace dm2::run
