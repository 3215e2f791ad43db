/// @file
/// Pictures beside their class maps, for the log of a run.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/evaluation_region.hpp>
#include <dm2/data/heatmap.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/log/picture_grid.hpp>
#include <dm2/train/training_state.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace dm2::example {

/// The class that the evaluation heads favour: that of the largest cls + max over patches / 2.
///
/// Shapes   cls [classes]; patches [patches, classes].
[[nodiscard]] inline int favoured_class(std::span<float const> cls, std::span<float const> patches) {
  std::vector<float> logits(cls.begin(), cls.end());
  for (std::size_t c = 0; c < cls.size(); ++c) {
    float best = patches[c];
    for (std::size_t i = c; i < patches.size(); i += cls.size()) best = std::max(best, patches[i]);
    logits[c] += best / 2;
  }
  return int(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// A picture as the model gets it, and over it the probability, patch by patch, of the class that the model takes it
/// for.
[[nodiscard]] inline std::pair<picture, picture> with_class_map(training_state& net, picture const& p) {
  config const& c = net.configuration();
  image_extent const crop{c.image.height, c.image.width}, grid{c.image.height / c.patch, c.image.width / c.patch};
  std::size_t const classes = std::size_t(c.classes), tokens = std::size_t(grid.height) * std::size_t(grid.width);
  picture seen = evaluation_transform(p, crop);
  std::vector<float> input(seen.pixels.size()), cls(classes), patches(tokens * classes);
  normalise(seen, input);
  net.patches(input, cls, patches);
  patch_map map = class_probability(patches, grid, classes, favoured_class(cls, patches));
  stretch(map);
  picture drawn = draw_heatmap(seen, map, {0, 0, double(crop.height), double(crop.width)});
  return {std::move(seen), std::move(drawn)};
}

/// `count` samples, spread evenly over the set, each beside its class map; nothing where none can be read.
[[nodiscard]] inline std::optional<picture> class_map_grid(training_state& net, dataset const& set, std::size_t count) {
  std::vector<picture> cells;
  count = std::min(count, set.size());
  for (std::size_t i = 0; i < count; ++i) {
    try {
      auto [seen, drawn] = with_class_map(net, set.load_image(i * set.size() / count));
      cells.push_back(std::move(seen));
      cells.push_back(std::move(drawn));
    } catch (file_error const&) {  // validation has reported it
    }
  }
  if (cells.empty()) return std::nullopt;
  return picture_grid(cells, 8, 4);
}

}  // namespace dm2::example
