/// @file
/// The training state behind the run-time interface, on the CPU.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/training_pass.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/train/model_training.hpp>

#include <cstddef>
#include <memory>
#include <utility>

namespace dm2::run {
namespace detail {

/// The model of a training state, which is made before it.
template <config C, class Context>
struct trained_model {
  model<C, Context> net;
};

}  // namespace detail

/// A training state with the model that it trains.
template <config C, class Context>
class training_of final : private detail::trained_model<C, Context>, public model_training<C, Context> {
 public:
  /// As dm2::model's and model_training's constructors.
  training_of(training_request const& r, Context ctx)
      : detail::trained_model<C, Context>{model<C, Context>{r.batch, std::move(ctx)}},
        model_training<C, Context>{this->net, r.options, r.processes != nullptr ? *r.processes : one_process()} {}
};

/// A training state of configuration C on the CPU.
template <config C>
[[nodiscard]] std::unique_ptr<training_state> make_cpu_training(training_request const& request) {
  using context = cpu::context<float>;
  return std::make_unique<training_of<C, context>>(request, context{request.threads});
}

/// Bytes that a training pass on the CPU plans.
template <config C>
[[nodiscard]] std::size_t cpu_training_bytes(int batch) {
  return planned_bytes<dm2::detail::training_plan<C, cpu::context<float>>>(batch);
}

}  // namespace dm2::run
