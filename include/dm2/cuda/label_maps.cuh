/// @file
/// A batch's label maps on the device, as their files hold them.
#pragma once

#include <dm2/train/token_label_target.hpp>

#include <cstddef>

namespace dm2::cuda {

/// One axis of a crop on a label map: where its first bin begins, in cells, how wide a bin is, and in how many places
/// RoIAlign reads each.
struct roi_line {
  double first;  ///< in cells
  double bin;    ///< in cells
  int samples;   ///< a bin
};

/// What the loss knows of a sample, beside its label map's numbers.
struct label_sample {
  roi_line whole[2];  ///< the crop as one bin, down and across
  roi_line patch[2];  ///< the crop in as many bins as there are patches
  std::size_t map;    ///< where its map begins among the numbers of all
  int height;         ///< rows of its map; 0 for a sample without one
  int width;          ///< columns of its map
  int label;          ///< its class, which is the target where it has no map
};

/// The record of a sample with a map of height x width cells, as sparse_targets::add takes it: `map` as label_sample
/// has it, `rows` and `cols` the patch grid. Made on the host, so that the places to read are the CPU's to the last
/// bit.
[[nodiscard]] inline label_sample make_label_sample(std::size_t map, int height, int width, crop_fraction crop,
                                                    int label, int rows, int cols, crop_convention convention) {
  bool const transposed = convention == crop_convention::published;
  if (transposed) crop = {crop.left, crop.top, crop.width, crop.height};
  double const cells_y = transposed ? width : height, cells_x = width;
  double const y0 = crop.top * cells_y - 0.5, y1 = (crop.top + crop.height) * cells_y - 0.5;
  double const x0 = crop.left * cells_x - 0.5, x1 = (crop.left + crop.width) * cells_x - 0.5;
  auto const line = [](double lo, double hi, int bins) {
    dm2::detail::roi_axis const axis{lo, hi, bins};
    return roi_line{axis.first, axis.bin, axis.samples};
  };
  return {{line(y0, y1, 1), line(x0, x1, 1)}, {line(y0, y1, rows), line(x0, x1, cols)}, map, height, width, label};
}

/// The record of a sample without a label map: every token's target is the smoothed class.
[[nodiscard]] inline label_sample make_label_sample(int label) { return {{}, {}, 0, 0, 0, label}; }

/// The label maps of a batch. Class indices and labels that are out of range make the loss NaN; they are not written
/// with.
template <class M>
struct label_maps {
  M const* values;              ///< on the device: the maps [2, 5, height, width], anywhere in this memory
  label_sample const* samples;  ///< on the device: one a sample
  int side;                     ///< the longest side of any map; 0 where no sample has one
  int rows;                     ///< patches down
  int cols;                     ///< patches across
  double smoothing;             ///< as label_smoothing takes it
};

}  // namespace dm2::cuda
