/// @file
/// What a loader does with each picture.
#pragma once

#include <dm2/core/label_map.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/transform.hpp>

#include <functional>
#include <span>
#include <utility>

namespace dm2 {

/// From a decoded picture to the network's input, called by several threads at once. `map` is the picture's label map,
/// to be changed with it, or null; `out` is [3, height, width]. All that is drawn comes from the stream. Returns the
/// part of the map that `out` shows. A file_error makes the sample a bad one; other exceptions end loading.
using sample_transform =
    std::function<crop_fraction(picture p, label_map_data* map, random_stream& stream, std::span<float> out)>;

/// evaluation_transform and normalise. Label maps are not carried along: what is returned is the whole of the map.
[[nodiscard]] inline sample_transform evaluation_sample_transform(image_extent crop, image_extent resize,
                                                                  normalisation const& n = imagenet_normalisation) {
  return [=](picture const& p, label_map_data*, random_stream&, std::span<float> out) {
    normalise(evaluation_transform(p, crop, resize), out, n);
    return crop_fraction{};
  };
}

/// training_transform to `size`. Throws std::invalid_argument where `a` is no augmentation (require_augmentation).
[[nodiscard]] inline sample_transform training_sample_transform(image_extent size, augmentation const& a = {}) {
  require_augmentation(a);
  return [=](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
    return training_transform(std::move(p), map, a, size.height, size.width, stream, out);
  };
}

}  // namespace dm2
