/// @file
/// A small set of pictures, and train as a user runs it on them.
#pragma once

#include <dm2/data/encode_png.hpp>
#include <dm2/data/picture.hpp>

#include "examples/run_program.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace dm2::test {

/// `classes` folders of `count` pictures, each class another grey.
inline void draw_pictures(std::filesystem::path const& root, int classes, int count) {
  for (int c = 0; c < classes; ++c) {
    std::filesystem::path const folder = root / ("class" + std::to_string(c));
    std::filesystem::create_directories(folder);
    for (int i = 0; i < count; ++i) {
      picture p{20, 24};
      for (std::size_t k = 0; k < p.pixels.size(); ++k) p.pixels[k] = std::uint8_t(20 * c + int(k) % (7 + i));
      write_png(folder / ("p" + std::to_string(i) + ".png"), p);
    }
  }
}

/// Spoils every picture under `root` of that name, or of any name where it is empty.
inline void spoil_pictures(std::filesystem::path const& root, std::string const& name = "") {
  std::vector<std::filesystem::path> files;  // listed first: a folder must not change under its iterator
  for (auto const& entry : std::filesystem::recursive_directory_iterator{root})
    if (entry.is_regular_file() && (name.empty() || entry.path().filename() == name)) files.push_back(entry.path());
  for (auto const& file : files) write_raw(file, "no picture");
}

/// A folder with `data`, pictures for the small model of ten classes.
struct picture_folder {
  scratch_folder folder;

  explicit picture_folder(int classes = 10) {
    draw_pictures(folder / "data/train", classes, 2);
    draw_pictures(folder / "data/val", classes, 1);
  }

  /// train's command line: two epochs of two steps.
  static std::vector<std::string> words(std::vector<std::string> const& more) {
    std::vector<std::string> out{"data", "-m",       "micro", "-b", "5", "--grad-accum-steps", "2", "--lr",
                                 "1e-3", "--epochs", "2",     "-j", "1", "--threads",          "1"};
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }
  [[nodiscard]] outcome train(std::vector<std::string> const& more) const { return train_only(words(more)); }
  /// With no flags but these.
  [[nodiscard]] outcome train_only(std::vector<std::string> const& words) const {
    return run_program(DM2_TRAIN, words, folder.path());
  }
  /// A script of bash in the folder, where `train MORE...` is train() above, and `launch MORE... &` the same in the
  /// background, $! being the program itself.
  [[nodiscard]] outcome shell(std::string const& script) const {
    std::string command = quoted(DM2_TRAIN);
    for (std::string const& word : words({})) command += " " + quoted(word);
    return run_program(
        "/bin/bash",
        {"-c", "train() { " + command + " \"$@\"; }\nlaunch() { exec " + command + " \"$@\"; }\n" + script},
        folder.path());
  }
  /// The run's own file.
  [[nodiscard]] std::filesystem::path run(std::string const& name) const { return folder / ("runs/micro/" + name); }
};

/// What a folder holds: the bytes of every file in it, hidden ones too, by name.
inline std::map<std::string, std::string> files_of(std::filesystem::path const& folder) {
  std::map<std::string, std::string> out;
  for (auto const& entry : std::filesystem::directory_iterator{folder})
    out[entry.path().filename().string()] = entry.is_regular_file() ? read_raw(entry.path()) : "a folder";
  return out;
}

}  // namespace dm2::test
