/// @file
/// Classifies pictures of bytes by any model on any device.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/model/config.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>

namespace dm2::run {

/// What a model says of a batch; valid until the next batch is submitted.
struct batch_results {
  std::span<float const> logits;   ///< [B, classes]
  std::span<float const> patches;  ///< [B, grid height, grid width, classes], or nothing where that was not asked for
};

/// A model whose weights are loaded. Pictures go in as bytes, and while one batch is
/// computed the next one can be written:
///
///     write to staging(), submit(n); write to staging(), submit(n), take(); write to staging(), submit(n), take(); ...
class classifier {
 public:
  virtual ~classifier() = default;

  /// The model's.
  [[nodiscard]] virtual config const& configuration() const = 0;
  /// Bytes of one picture, and numbers in its input.
  [[nodiscard]] std::size_t pixels() const {
    config const& c = configuration();
    return std::size_t(c.channels) * std::size_t(c.image.height) * std::size_t(c.image.width);
  }
  /// Logits of one picture.
  [[nodiscard]] std::size_t classes() const { return std::size_t(configuration().classes); }
  /// Height and width of a picture.
  [[nodiscard]] image_extent crop() const { return {configuration().image.height, configuration().image.width}; }
  /// Rows and columns of patches.
  [[nodiscard]] image_extent grid() const {
    config const& c = configuration();
    return {c.image.height / c.patch, c.image.width / c.patch};
  }

  /// Where the next batch's pictures go, [batch, height, width, 3], after evaluation_transform.
  [[nodiscard]] virtual std::span<std::uint8_t> staging() = 0;
  /// Hands over the first `count` pictures of staging(). At most two batches may be submitted and not taken.
  virtual void submit(int count) = 0;
  /// Where a batch's raw pictures go, as many places as a batch has: a device finishes them to what
  /// evaluation_transform would have given. Two may be filled at once; a third one waits until the device has what was
  /// in it. Null where there is none: staging() it is, then.
  [[nodiscard]] virtual raw_pictures* raw_staging() { return nullptr; }
  /// What decodes the pictures that raw_staging() was given encoded (raw_place), after those of the batch before were
  /// submitted; null where nothing does.
  [[nodiscard]] virtual raw_decoder* decoder() { return nullptr; }
  /// As submit, of what raw_staging() gave.
  virtual void submit_raw(raw_pictures& from, int count) {
    static_cast<void>(from), static_cast<void>(count);
    throw std::logic_error{"dm2::run::classifier: it takes finished pictures"};
  }
  /// What the model says of the oldest batch that was not taken.
  [[nodiscard]] virtual batch_results take() = 0;
};

}  // namespace dm2::run
