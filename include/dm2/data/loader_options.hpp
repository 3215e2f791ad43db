/// @file
/// How batches are loaded.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/transform.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

namespace dm2 {

/// The kinds of epochs.
enum class loading : unsigned char {
  training,   ///< shuffled, samples that fill no batch left out, a bad sample's place taken by another
  evaluation  ///< in the order of the set, the last batch smaller, bad samples left out
};

/// How a loader loads.
struct loader_options {
  loading mode = loading::training;  ///< decides the samples' order, and the treatment of bad and surplus ones
  image_extent image{};              ///< that the transform writes; 0 x 0 for its own
  int batch = 1;                     ///< samples of a batch
  int threads = 0;                   ///< that read and transform; 0 for one a processor
  int prefetch = 3;                  ///< batches held ready beyond the one that the caller has; at least 1
  std::uint64_t seed = 0;            ///< of shuffling and of every draw of the transform
  int rank = 0;                      ///< this process, below world (epoch_batches)
  int world = 1;                     ///< processes that share each epoch
  int group = 0;                     ///< batches after which process 0 is next again, a step's; 0 for never
  bool label_maps = true;            ///< read label maps where the set has them
  int label_map_classes = 0;         ///< classes that label maps may name; 0 for the set's own
  std::size_t max_bad = 100;         ///< different bad samples after which next() throws
  /// Limits that pictures are held against; those beyond them count as bad.
  decode_options decoding{.max_pixels = max_sample_pixels, .max_scans = max_sample_scans};
  std::function<void(file_error const&)> report{};  ///< told once of each bad sample, by the thread that calls next()
};

namespace detail {

/// o itself, with the size that the transform writes where it says one; throws std::invalid_argument naming the option
/// that is out of range, shape_error where both say a size and they differ.
[[nodiscard]] inline loader_options checked(loader_options o, std::optional<image_extent> writes) {
  auto const text = [](image_extent e) { return std::to_string(e.height) + " x " + std::to_string(e.width); };
  bool const own = o.image == image_extent{};
  if (own && !writes)
    throw std::invalid_argument{"loader: neither the options nor the transform say the size of the pictures"};
  if (!own && writes && *writes != o.image)
    throw shape_error{"loader: the options say pictures of " + text(o.image) + ", the transform writes " +
                      text(*writes)};
  if (own) o.image = *writes;
  require_option(o.batch >= 1, "loader: batch", o.batch, "at least 1");
  require_option(o.threads >= 0, "loader: threads", o.threads, "at least 1, or 0 for one a processor");
  require_option(o.prefetch >= 1 && o.prefetch <= 1 << 20, "loader: prefetch", o.prefetch, "1 to 1048576");
  require_option(o.world >= 1, "loader: world", o.world, "at least 1");
  require_option(o.rank >= 0 && o.rank < o.world, "loader: rank", o.rank, "at least 0 and below world");
  require_option(o.group >= 0, "loader: group", o.group, "at least 1, or 0 for none");
  require_option(o.image.height >= 1, "loader: image.height", o.image.height, "at least 1");
  require_option(o.image.width >= 1, "loader: image.width", o.image.width, "at least 1");
  require_option(o.label_map_classes >= 0, "loader: label_map_classes", o.label_map_classes,
                 "at least 1, or 0 for the set's own");
  return o;
}

}  // namespace detail
}  // namespace dm2
