/// @file
/// The transform that a loader applies to each picture.
#pragma once

#include <dm2/core/label_map.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/transform.hpp>

#include <concepts>
#include <functional>
#include <optional>
#include <span>
#include <utility>

namespace dm2 {

/// From a decoded picture to the network's input, called by several threads at once.
class sample_transform {
 public:
  /// `map` is the picture's label map, to be changed with it, or null; `out` is [3, height, width]. All that is drawn
  /// comes from the stream. Returns the part of the map that `out` shows. A file_error makes the sample a bad one;
  /// other exceptions end loading.
  using function =
      std::function<crop_fraction(picture p, label_map_data* map, random_stream& stream, std::span<float> out)>;

  /// The same of a picture that is not decoded yet, with the same result.
  using encoded_function = std::function<crop_fraction(encoded_picture& p, label_map_data* map, random_stream& stream,
                                                       std::span<float> out)>;

  /// None: a loader refuses it.
  sample_transform() = default;
  /// Writes pictures of whatever size the loader's options say.
  template <class F>
    requires(!std::same_as<F, sample_transform> && std::constructible_from<function, F>)
  sample_transform(F f) : apply_{std::move(f)} {}
  /// Writes pictures of that size, which the loader then takes from here.
  sample_transform(image_extent writes, function f) : writes_{writes}, apply_{std::move(f)} {}
  /// The same, with what it does to a picture that is not decoded yet.
  sample_transform(image_extent writes, function f, encoded_function encoded)
      : writes_{writes}, apply_{std::move(f)}, encoded_{std::move(encoded)} {}

  /// Whether there is one.
  explicit operator bool() const noexcept { return bool(apply_); }
  /// As function.
  crop_fraction operator()(picture p, label_map_data* map, random_stream& stream, std::span<float> out) const {
    return apply_(std::move(p), map, stream, out);
  }
  /// As encoded_function; decodes the whole picture where there is no such function.
  crop_fraction operator()(encoded_picture& p, label_map_data* map, random_stream& stream, std::span<float> out) const {
    return encoded_ ? encoded_(p, map, stream, out) : apply_(p.whole(), map, stream, out);
  }
  /// The size of its pictures; nothing where it writes any size.
  [[nodiscard]] std::optional<image_extent> writes() const noexcept { return writes_; }

 private:
  std::optional<image_extent> writes_;
  function apply_;
  encoded_function encoded_;
};

/// evaluation_transform and normalise. Label maps are not cropped: the crop returned is the whole map.
/// Throws shape_error where an extent is smaller than 1.
[[nodiscard]] inline sample_transform evaluation_sample_transform(image_extent crop, image_extent resize,
                                                                  normalisation const& n = imagenet_normalisation) {
  detail::require_output("evaluation_sample_transform: crop", crop.height, crop.width);
  detail::require_output("evaluation_sample_transform: resize", resize.height, resize.width);
  auto const transform = [=](auto&& p, label_map_data*, random_stream&, std::span<float> out) {
    normalise(evaluation_transform(p, crop, resize), out, n);
    return crop_fraction{};
  };
  return {crop, transform, transform};
}

/// The same with evaluation_resize(crop).
[[nodiscard]] inline sample_transform evaluation_sample_transform(image_extent crop) {
  return evaluation_sample_transform(crop, evaluation_resize(crop));
}

/// training_transform to `size`. Throws shape_error where it is smaller than 1, std::invalid_argument where `a` is no
/// augmentation (require_augmentation).
[[nodiscard]] inline sample_transform training_sample_transform(image_extent size, augmentation const& a = {}) {
  detail::require_output("training_sample_transform: size", size.height, size.width);
  require_augmentation(a);
  return {size,
          [=](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
            return training_transform(std::move(p), map, a, size.height, size.width, stream, out);
          },
          [=](encoded_picture& p, label_map_data* map, random_stream& stream, std::span<float> out) {
            return training_transform(p, map, a, size.height, size.width, stream, out);
          }};
}

}  // namespace dm2
