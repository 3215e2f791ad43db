/// @file
/// A model's training state: the model with its optimizer, average and step engine.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/label_map.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/batch_counter.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/step_engine.hpp>
#include <dm2/train/training_state.hpp>

#include <algorithm>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <vector>

namespace dm2 {

/// The training state of a model<C, Context>, which is the caller's and outlives it.
template <config C, class Context>
class model_training : public training_state {
 public:
  /// The type of weights, pictures and gradients.
  using scalar = typename Context::scalar;

  /// Takes all its memory; the average is the model's present state. Throws as optimizer, ema and step_engine do.
  model_training(model<C, Context>& net, model_training_options const& o, communicator& processes = one_process())
      : net_{net},
        optimizer_{o.optimizer},
        average_{net, o.ema_decay, o.ema_warm_up},
        engine_{net, optimizer_, average_, o.steps, processes},
        counter_{net} {}

  /// The averaged weights.
  [[nodiscard]] ema<C, Context>& average() { return average_; }

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] any_training_numbers numbers() override {
    return training_numbers<scalar>{
        net_.table(),   net_.state(), average_.state(), optimizer_.momentum(), optimizer_.second_moment(),
        net_.counters()};
  }
  [[nodiscard]] optimizer_options const& rule() const override { return optimizer_.options(); }
  [[nodiscard]] steps_done steps() const override { return {optimizer_.steps(), average_.steps()}; }
  void set_steps(steps_done done) override {
    optimizer_.set_steps(done.optimizer);
    average_.set_steps(done.average);
  }
  void restart_average() override { average_.restart(net_); }
  void swap_average() override { average_.swap(net_); }

  void micro_batch(batch const& b, mix_box box, double scale) override { engine_.micro_batch(b, box, scale); }
  void finish_round(int count, step_place first, bool stop) override { engine_.finish_round(count, first, stop); }
  void finish_step(double rate) override { engine_.finish_step(rate); }
  [[nodiscard]] std::optional<step_result> next_result(bool wait) override { return engine_.next_result(wait); }
  void pull() override { engine_.pull(); }
  void push() override { engine_.push(); }
  [[nodiscard]] any_values pictures() override { return engine_.pictures(); }
  [[nodiscard]] std::pmr::memory_resource* raw_memory() override {
    if constexpr (requires { engine_.raw_memory(); })
      return &engine_.raw_memory();
    else
      return nullptr;
  }
  [[nodiscard]] raw_decoder* picture_decoder() override {
    if constexpr (requires { engine_.picture_decoder(); })
      return &engine_.picture_decoder();
    else
      return nullptr;
  }
  [[nodiscard]] any_values gradients() override { return std::span<scalar const>{engine_.gradients()}; }

  [[nodiscard]] double seconds_computing() override { return engine_.seconds_computing(); }
  [[nodiscard]] device_times seconds_augmenting() override {
    if constexpr (requires { engine_.seconds_augmenting(); })
      return engine_.seconds_augmenting();
    else
      return {};
  }
  [[nodiscard]] evaluation count(batch const& b) override { return counter_(b); }
  void patches(std::span<float const> picture, std::span<float> cls, std::span<float> patches) override {
    std::vector<scalar> in(picture.begin(), picture.end()), logits(cls.size()), maps(patches.size());
    net_.forward_patches(in, logits, maps);
    auto const narrowed = [](scalar v) { return float(v); };
    std::transform(logits.begin(), logits.end(), cls.begin(), narrowed);
    std::transform(maps.begin(), maps.end(), patches.begin(), narrowed);
  }

 private:
  static constexpr config configuration_ = C;

  model<C, Context>& net_;
  optimizer<C, Context> optimizer_;
  ema<C, Context> average_;
  step_engine<C, Context> engine_;
  detail::batch_counter<C, Context> counter_;
};

}  // namespace dm2
