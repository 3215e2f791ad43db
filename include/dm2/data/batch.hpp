/// @file
/// Pictures ready for the network, with their labels.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/label_map.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/data/label_map_data.hpp>
#include <dm2/data/raw_pictures.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace dm2 {

/// Samples ready for the network. Every list has `size` entries, maps only where the set has label maps.
struct batch {
  std::size_t number = 0;            ///< place in the epoch, from 0
  int size = 0;                      ///< samples
  int height = 0;                    ///< of every picture, in pixels
  int width = 0;                     ///< of every picture, in pixels
  std::vector<float> pictures;       ///< [size, 3, height, width], normalised; empty where `raw` has them
  raw_pictures raw;                  ///< the pictures as they are decoded, where a device is to finish them
  std::vector<int> labels;           ///< class of each
  std::vector<std::size_t> samples;  ///< number of each in the set
  std::vector<label_map_data> maps;  ///< label map of each, or empty
  std::vector<crop_fraction> crops;  ///< the part of its label map that each picture shows

  /// Values of one picture.
  [[nodiscard]] std::size_t picture_size() const { return 3 * std::size_t(height) * std::size_t(width); }
  /// Picture i, [3, height, width].
  [[nodiscard]] std::span<float const> picture_at(int i) const {
    return std::span{pictures}.subspan(std::size_t(i) * picture_size(), picture_size());
  }
  /// @copydoc picture_at(int) const
  [[nodiscard]] std::span<float> picture_at(int i) {
    return std::span{pictures}.subspan(std::size_t(i) * picture_size(), picture_size());
  }
  /// Label map i as token_label_target takes it; valid as long as the batch.
  [[nodiscard]] label_map<float> map_at(int i) const {
    label_map_data const& m = maps[std::size_t(i)];
    return {std::span{m.values}, m.height, m.width};
  }

  /// Whether a device is to finish the pictures.
  [[nodiscard]] bool is_raw() const noexcept { return !raw.tasks.empty(); }

  /// Makes every list `count` long, keeping their memory; the raw pictures' where there are some, else the pictures'.
  void resize(int count, bool with_maps) {
    size = count;
    std::size_t const n = std::size_t(count);
    if (is_raw())
      raw.tasks.resize(n);
    else
      pictures.resize(n * picture_size());
    labels.resize(n);
    samples.resize(n);
    maps.resize(with_maps ? n : 0);
    crops.resize(n);
  }
};

namespace detail {

/// Throws shape_error unless b has `count` samples, of pictures of `size`. Label maps and crops may be absent.
inline void require_batch(batch const& b, int count, image_extent size) {
  std::size_t const n = std::size_t(count);
  require_extent("batch.size", std::size_t(std::max(b.size, 0)), n);
  if (b.is_raw()) {
    require_extent("batch.raw.tasks", b.raw.tasks.size(), n);
    if (b.raw.size != size) throw shape_error{"batch.raw: pictures of another size than the model's"};
  } else {
    require_extent("batch.pictures", b.pictures.size(), n * 3 * std::size_t(size.height) * std::size_t(size.width));
  }
  require_extent("batch.labels", b.labels.size(), n);
  if (b.maps.empty()) return;
  require_extent("batch.maps", b.maps.size(), n);
  require_extent("batch.crops", b.crops.size(), n);
}

}  // namespace detail
}  // namespace dm2
