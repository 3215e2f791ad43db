/// @file
/// The network behind the run-time interface: a dm2::model on the CPU.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/model/model.hpp>
#include <dm2/run/host_classifier.hpp>
#include <dm2/run/network.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace dm2::run {

/// A network of a dm2::model<C, Context> on any device.
template <config C, class Context>
class network_of : public network {
 public:
  /// As dm2::model's constructor.
  explicit network_of(int batch, Context ctx) : net_{batch, std::move(ctx)} {}

  /// As network::configuration.
  [[nodiscard]] config const& configuration() const override { return configuration_; }
  /// As network::table.
  [[nodiscard]] std::span<parameter_entry const> table() const override { return net_.table(); }
  /// As network::state.
  [[nodiscard]] std::span<float> state() override { return net_.state(); }
  /// As network::counters.
  [[nodiscard]] std::span<std::int64_t> counters() override { return net_.counters(); }
  /// As network::forward.
  void forward(std::span<float const> pictures, std::span<float> logits) override { net_.forward(pictures, logits); }
  /// As network::forward_features.
  void forward_features(std::span<float const> pictures, std::span<float> features) override {
    net_.forward_features(pictures, features);
  }
  /// As network::forward_patches.
  void forward_patches(std::span<float const> pictures, std::span<float> cls, std::span<float> patches) override {
    net_.forward_patches(pictures, cls, patches);
  }
  /// As network::make_classifier.
  [[nodiscard]] std::unique_ptr<classifier> make_classifier(int batch, bool patches) override {
    return std::make_unique<host_classifier>(*this, batch, patches);
  }

 protected:
  /// The network.
  [[nodiscard]] model<C, Context>& net() { return net_; }

 private:
  static constexpr config configuration_ = C;

  model<C, Context> net_;
};

/// A network of configuration C on the CPU.
template <config C>
[[nodiscard]] std::unique_ptr<network> make_cpu_network(int batch, int threads) {
  using context = cpu::context<float>;
  return std::make_unique<network_of<C, context>>(batch, context{threads});
}

}  // namespace dm2::run
