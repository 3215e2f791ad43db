/// @file
/// A folder of pictures of many kinds, with label maps, to be packed.
#pragma once

#include <dm2/data/dataset.hpp>
#include <dm2/data/encode_png.hpp>

#include "data/golden_images.hpp"
#include "data/make_label_map.hpp"
#include "io/scratch.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dm2::test {

/// The golden pictures `copies` times in the classes c1, c2 and c10, c2's in a folder deeper, and an empty class c3.
class mixed_set {
 public:
  explicit mixed_set(int copies) {
    std::filesystem::create_directories(images() / "c3");
    for (int i = 0; i < copies * int(golden_pictures.size()); ++i) {
      std::string const picture = golden_pictures[std::size_t(i) % golden_pictures.size()];
      std::string const folder = i % 3 == 0 ? "c1" : i % 3 == 1 ? "c2/deep" : "c10";
      std::string const stem = "p" + std::to_string(100 + i);
      std::filesystem::create_directories(images() / folder);
      std::filesystem::create_directories(maps() / folder);
      std::filesystem::copy_file(golden_image(picture), images() / folder / (stem + "." + picture));
      write_label_map(maps() / folder / (stem + ".pt"), label_map_values(2, 3, 4, i), 2, 3);
    }
  }

  [[nodiscard]] std::filesystem::path images() const { return folder_ / "images"; }
  [[nodiscard]] std::filesystem::path maps() const { return folder_ / "maps"; }
  [[nodiscard]] std::filesystem::path packed() const { return folder_ / "packed"; }
  [[nodiscard]] dataset plain() const { return dataset{images()}; }
  [[nodiscard]] dataset with_maps() const { return dataset{images(), {.label_maps = maps()}}; }

 private:
  scratch_folder folder_;
};

/// The files of a packed set, by name, with their bytes; none where there is no folder.
inline std::vector<std::pair<std::string, std::string>> packed_files(std::filesystem::path const& folder) {
  std::vector<std::pair<std::string, std::string>> out;
  if (!std::filesystem::exists(folder)) return out;
  for (auto const& one : std::filesystem::directory_iterator{folder})
    out.emplace_back(one.path().filename().string(), read_raw(one.path()));
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace dm2::test
