/// @file
/// The transform that a loader applies to each picture.
#pragma once

#include <dm2/core/label_map.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/augment/picture_task.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/transform.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
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

  /// The same, but that the pixels are left for a device to finish (raw_pictures).
  using raw_function =
      std::function<crop_fraction(encoded_picture& p, label_map_data* map, random_stream& stream, raw_place const& to)>;

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

  /// The same, with what leaves the pixels to a device after up to `steps` operations.
  sample_transform(image_extent writes, function f, encoded_function encoded, raw_function raw, int steps)
      : writes_{writes}, apply_{std::move(f)}, encoded_{std::move(encoded)}, raw_{std::move(raw)}, steps_{steps} {}

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
  /// As raw_function; only where can_leave_raw().
  crop_fraction operator()(encoded_picture& p, label_map_data* map, random_stream& stream, raw_place const& to) const {
    return raw_(p, map, stream, to);
  }
  /// Whether it can leave pictures for a device to finish.
  [[nodiscard]] bool can_leave_raw() const noexcept { return bool(raw_); }
  /// The operations of such a picture, at most.
  [[nodiscard]] int raw_steps() const noexcept { return steps_; }
  /// The size of its pictures; nothing where it writes any size.
  [[nodiscard]] std::optional<image_extent> writes() const noexcept { return writes_; }

 private:
  std::optional<image_extent> writes_;
  function apply_;
  encoded_function encoded_;
  raw_function raw_;
  int steps_ = 0;
};

/// evaluation_transform of a picture whose pixels are left for a device to finish. One that does not fit its batch's
/// memory is finished here. Throws as evaluation_transform does.
///
/// Writes   to (its task and pixels).
inline void evaluation_transform(encoded_picture& p, image_extent crop, image_extent resize, normalisation const& n,
                                 raw_place const& to) {
  picture_task const task = plan_evaluation(p.height(), p.width(), crop, resize, n);
  if (leave_encoded(p, task, to)) return;
  if (std::uint8_t* const pixels = to.take(task)) return p.part_into(task.part, pixels);
  picture const done = evaluation_transform(p, crop, resize);
  std::copy(done.pixels.begin(), done.pixels.end(), to.take_finished(task));
}

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
  return {crop, transform, transform,
          [=](encoded_picture& p, label_map_data*, random_stream&, raw_place const& to) {
            evaluation_transform(p, crop, resize, n, to);
            return crop_fraction{};
          },
          0};
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
          },
          [=](encoded_picture& p, label_map_data* map, random_stream& stream, raw_place const& to) {
            return training_transform(p, map, a, stream, to);
          },
          a.operations};
}

}  // namespace dm2
