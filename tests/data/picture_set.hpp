/// @file
/// A small set of pictures with label maps, on disk.
#pragma once

#include <dm2/data/dataset.hpp>
#include <dm2/data/encode_png.hpp>

#include "data/golden_images.hpp"
#include "data/make_label_map.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dm2::test {

/// `count` PNG pictures in three classes c1, c2, c10, all different, with label maps of 2 x 3 points.
class picture_set {
 public:
  explicit picture_set(int count) {
    char const* const classes[] = {"c1", "c2", "c10"};
    for (char const* c : classes)
      for (auto const& root : {images(), maps()}) std::filesystem::create_directories(root / c);
    for (int i = 0; i < count; ++i) {
      std::string const name = std::string{classes[i % 3]} + "/p" + std::to_string(100 + i);
      picture p = gradient(12 + i % 5, 14 + i % 7);
      p.pixels[0] = static_cast<std::uint8_t>(i);
      std::vector<std::byte> const png = encode_png(p);
      write_file(images() / (name + ".png"), {reinterpret_cast<char const*>(png.data()), png.size()});
      write_label_map(maps() / (name + ".pt"), label_map_values(2, 3, 3, i), 2, 3);
    }
  }

  [[nodiscard]] std::filesystem::path images() const { return folder_.path() / "images"; }
  [[nodiscard]] std::filesystem::path maps() const { return folder_.path() / "maps"; }
  [[nodiscard]] dataset plain() const { return dataset{images()}; }
  [[nodiscard]] dataset with_maps() const { return dataset{images(), {.label_maps = maps()}}; }

 private:
  scratch_folder folder_;
};

}  // namespace dm2::test
