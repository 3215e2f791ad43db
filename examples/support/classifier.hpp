/// @file
/// One interface over models of any compiled-in configuration, for programs that choose one when they run.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model.hpp>

#include "models.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace dm2::example {

/// A loaded model whose configuration is known at run time only.
class classifier {
 public:
  virtual ~classifier() = default;

  [[nodiscard]] virtual config const& configuration() const = 0;
  /// Numbers in one picture's input.
  [[nodiscard]] std::size_t pixels() const {
    config const& c = configuration();
    return std::size_t(c.channels) * std::size_t(c.image.height) * std::size_t(c.image.width);
  }
  [[nodiscard]] std::size_t classes() const { return std::size_t(configuration().classes); }
  [[nodiscard]] image_extent crop() const { return {configuration().image.height, configuration().image.width}; }
  /// Rows and columns of patches.
  [[nodiscard]] image_extent grid() const {
    config const& c = configuration();
    return {c.image.height / c.patch, c.image.width / c.patch};
  }

  /// evaluation_input for this model. May run beside forward.
  virtual void prepare(picture const& p, std::span<float> out) const = 0;
  /// Logits [B, classes] of inputs [B, pixels].
  virtual void forward(std::span<float const> inputs, std::span<float> logits) = 0;
  /// The same, and the patches' logits [B, grid height, grid width, classes].
  virtual void forward_patches(std::span<float const> inputs, std::span<float> logits, std::span<float> patches) = 0;
};

/// A classifier of configuration C.
template <config C>
class classifier_of final : public classifier {
 public:
  classifier_of(tensor_file const& file, int batch, int threads) : net_{batch, cpu::context<float>{threads}} {
    load(net_, file);
  }

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  void prepare(picture const& p, std::span<float> out) const override { evaluation_input<C>(p, out); }
  void forward(std::span<float const> inputs, std::span<float> logits) override { net_.forward(inputs, logits); }
  void forward_patches(std::span<float const> inputs, std::span<float> logits, std::span<float> patches) override {
    net_.forward_patches(inputs, logits, patches);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      float const* const first = patches.data() + i / classes() * sizes<C>::tokens * classes() + i % classes();
      float best = *first;
      for (std::size_t t = 1; t < std::size_t(sizes<C>::tokens); ++t) best = std::max(best, first[t * classes()]);
      logits[i] += best / 2;  // as the evaluation heads do
    }
  }

 private:
  static constexpr config configuration_ = C;
  model<C> net_;
};

/// The model called `name`, with the file's weights. Throws file_error where they do not fit it.
[[nodiscard]] inline std::unique_ptr<classifier> make_classifier(std::string_view name, tensor_file const& file,
                                                                 int batch, int threads) {
  std::unique_ptr<classifier> out;
  for_each_model([&]<config C>(char const* known) {
    if (!out && name == known) out = std::make_unique<classifier_of<C>>(file, batch, threads);
  });
  return out;
}

}  // namespace dm2::example
