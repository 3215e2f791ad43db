/// @file
/// A classifier whose pictures are normalised on the host: the one of the CPU, and of class maps on any device.
#pragma once

#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>

#include "classifier.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dm2::example {

/// A classifier of a dm2::model, which computes in take().
template <class Model>
class host_classifier final : public classifier {
 public:
  /// With the file's weights; `patches`: results have the patches' logits too.
  host_classifier(tensor_file const& file, int batch, bool patches, typename Model::context ctx)
      : patches_{patches}, net_{batch, std::move(ctx)}, staging_(std::size_t(batch) * Model::pixels) {
    load(net_, file);
  }

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] std::span<std::uint8_t> staging() override { return staging_; }

  void submit(int count) override {
    std::vector<float>& inputs = inputs_[submitted_++ % inputs_.size()];
    inputs.resize(std::size_t(count) * Model::pixels);
    std::span<std::uint8_t const> const bytes{staging_};
    for (std::size_t at = 0; at < inputs.size(); at += Model::pixels)
      normalise(bytes.subspan(at, Model::pixels), std::span{inputs}.subspan(at, Model::pixels));
  }

  [[nodiscard]] batch_results take() override {
    std::vector<float> const& inputs = inputs_[taken_++ % inputs_.size()];
    std::size_t const count = inputs.size() / Model::pixels;
    logits_.resize(count * Model::classes);
    if (!patches_) {
      net_.forward(inputs, logits_);
      return {logits_, {}};
    }
    maps_.resize(logits_.size() * tokens);
    net_.forward_patches(inputs, logits_, maps_);
    add_best_patches();
    return {logits_, maps_};
  }

 private:
  static constexpr config configuration_ = Model::configuration;
  static constexpr std::size_t tokens = std::size_t(sizes<Model::configuration>::tokens);

  /// What the evaluation heads do: to each class its highest logit over the patches, halved.
  void add_best_patches() {
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      float const* const first = maps_.data() + i / Model::classes * tokens * Model::classes + i % Model::classes;
      float best = *first;
      for (std::size_t t = 1; t < tokens; ++t) best = std::max(best, first[t * Model::classes]);
      logits_[i] += best / 2;
    }
  }

  bool patches_;
  Model net_;
  std::vector<std::uint8_t> staging_;
  std::array<std::vector<float>, 2> inputs_;
  std::vector<float> logits_, maps_;
  std::size_t submitted_ = 0, taken_ = 0;
};

}  // namespace dm2::example
