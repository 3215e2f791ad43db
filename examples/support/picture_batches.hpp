/// @file
/// Pictures as inputs of a model, in batches, the next one being read while one is computed.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/image_folder.hpp>

#include "classifier.hpp"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <future>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// A file that is to be classified, or why it cannot be.
struct picture_entry {
  std::filesystem::path path;
  std::string error;
};

/// The pictures that the paths name, folders opened. A path that cannot be is an entry with an error.
[[nodiscard]] inline std::vector<picture_entry> gather_pictures(std::span<std::filesystem::path const> paths) {
  std::vector<picture_entry> out;
  for (auto const& path : paths) {
    try {
      for (auto& picture : list_images(path)) out.push_back({std::move(picture), ""});
    } catch (std::exception const& problem) {
      out.push_back({path, problem.what()});
    }
  }
  return out;
}

/// Some entries in a row, and the inputs [good, pixels] of those that could be read.
struct picture_batch {
  std::vector<picture_entry> entries;
  std::vector<float> inputs;
};

/// Cuts a list of entries into batches and reads them, one ahead.
class batch_reader {
 public:
  batch_reader(classifier const& net, std::span<picture_entry const> entries, std::size_t size)
      : net_{net}, left_{entries}, size_{size} {
    start();
  }

  /// The next batch; without entries at the end.
  [[nodiscard]] picture_batch next() {
    picture_batch out = reading_.get();
    start();
    return out;
  }

 private:
  void start() {
    auto const entries = left_.first(std::min(size_, left_.size()));
    left_ = left_.subspan(entries.size());
    reading_ = std::async(std::launch::async, [&net = net_, entries] { return read(net, entries); });
  }

  static picture_batch read(classifier const& net, std::span<picture_entry const> entries) {
    picture_batch out{{entries.begin(), entries.end()}, {}};
    std::vector<float> input(net.pixels());
    for (picture_entry& entry : out.entries) {
      if (!entry.error.empty()) continue;
      try {
        net.prepare(read_image(entry.path), input);
        out.inputs.insert(out.inputs.end(), input.begin(), input.end());
      } catch (std::exception const& problem) {
        entry.error = problem.what();
      }
    }
    return out;
  }

  classifier const& net_;
  std::span<picture_entry const> left_;
  std::size_t size_;
  std::future<picture_batch> reading_;
};

}  // namespace dm2::example
