/// @file
/// How batches are loaded.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/transform.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace dm2 {

/// What an epoch is.
enum class loading : unsigned char {
  training,   ///< shuffled, samples that fill no batch left out, a bad sample's place taken by another
  evaluation  ///< in the order of the set, the last batch smaller, bad samples left out
};

/// How a loader loads.
struct loader_options {
  loading mode = loading::training;  ///< order of the samples, and what happens to bad and surplus ones
  image_extent image{224, 224};      ///< that the transform writes
  int batch = 1;                     ///< samples of a batch, on this process
  int threads = 0;                   ///< that read and transform; 0 for one a processor
  int prefetch = 3;                  ///< batches held ready beyond the one that the caller has; at least 1
  std::uint64_t seed = 0;            ///< of shuffling and of every draw of the transform
  int rank = 0;                      ///< this process, below world (epoch_batches)
  int world = 1;                     ///< processes that share each epoch
  bool label_maps = true;            ///< read label maps where the set has them
  int label_map_classes = 0;         ///< classes that label maps may name; 0 for the set's own
  std::size_t max_bad = 100;         ///< different bad samples after which next() throws
  decode_options decoding{};         ///< limits that pictures are held against; those beyond them count as bad
  std::function<void(file_error const&)> report{};  ///< told once of each bad sample, by the thread that calls next()
};

namespace detail {

/// o itself; throws std::invalid_argument naming the option that is out of range.
[[nodiscard]] inline loader_options checked(loader_options o) {
  auto const require = [](bool ok, char const* what, int got) {
    if (!ok) throw std::invalid_argument{std::string{"loader: "} + what + " is " + std::to_string(got)};
  };
  require(o.batch >= 1, "batch", o.batch);
  require(o.prefetch >= 1, "prefetch", o.prefetch);
  require(o.world >= 1, "world", o.world);
  require(o.rank >= 0 && o.rank < o.world, "rank", o.rank);
  require(o.image.height >= 1, "image.height", o.image.height);
  require(o.image.width >= 1, "image.width", o.image.width);
  require(o.label_map_classes >= 0, "label_map_classes", o.label_map_classes);
  return o;
}

}  // namespace detail
}  // namespace dm2
