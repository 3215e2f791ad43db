/// @file
/// A classifier whose pictures are normalised on the host: the CPU's, and that of class maps on any device.
#pragma once

#include <dm2/data/normalise.hpp>
#include <dm2/run/classifier.hpp>
#include <dm2/run/network.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2::run {

/// A classifier of any network, which computes in take().
class host_classifier final : public classifier {
 public:
  /// Of a network that outlives it; `patches`: results have the patches' logits too.
  host_classifier(network& net, int batch, bool patches)
      : net_{net}, patches_{patches}, each_{pixels_of(net.configuration())}, staging_(std::size_t(batch) * each_) {}

  [[nodiscard]] config const& configuration() const override { return net_.configuration(); }
  [[nodiscard]] std::span<std::uint8_t> staging() override { return staging_; }

  void submit(int count) override {
    std::vector<float>& inputs = inputs_[submitted_++ % inputs_.size()];
    inputs.resize(std::size_t(count) * each_);
    std::span<std::uint8_t const> const bytes{staging_};
    for (std::size_t at = 0; at < inputs.size(); at += each_)
      normalise(bytes.subspan(at, each_), std::span{inputs}.subspan(at, each_));
  }

  [[nodiscard]] batch_results take() override {
    std::vector<float> const& inputs = inputs_[taken_++ % inputs_.size()];
    std::size_t const count = inputs.size() / each_;
    logits_.resize(count * classes());
    if (!patches_) {
      net_.forward(inputs, logits_);
      return {logits_, {}};
    }
    maps_.resize(logits_.size() * tokens());
    net_.forward_patches(inputs, logits_, maps_);
    add_best_patches();
    return {logits_, maps_};
  }

 private:
  static std::size_t pixels_of(config const& c) {
    return std::size_t(c.channels) * std::size_t(c.image.height) * std::size_t(c.image.width);
  }
  [[nodiscard]] std::size_t tokens() const { return std::size_t(grid().height) * std::size_t(grid().width); }

  /// What the evaluation heads do: to each class its highest logit over the patches, halved.
  void add_best_patches() {
    std::size_t const n = classes();
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      float const* const first = maps_.data() + i / n * tokens() * n + i % n;
      float best = *first;
      for (std::size_t t = 1; t < tokens(); ++t) best = std::max(best, first[t * n]);
      logits_[i] += best / 2;
    }
  }

  network& net_;
  bool patches_;
  std::size_t each_;
  std::vector<std::uint8_t> staging_;
  std::array<std::vector<float>, 2> inputs_;
  std::vector<float> logits_, maps_;
  std::size_t submitted_ = 0, taken_ = 0;
};

}  // namespace dm2::run
