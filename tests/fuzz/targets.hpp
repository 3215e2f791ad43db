/// @file
/// What is fuzzed: one function a reader, each of which takes any bytes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace dm2::fuzz {

/// A reader of files from strangers. `run` gives it the bytes as a whole file, and returns whether it took them; it may
/// refuse them by file_error alone. Anything else ends the program: an exception of another kind, a message without the
/// file's name, a result that contradicts the bytes, and what the sanitizers find.
struct target {
  std::string_view name;
  bool (*run)(std::span<std::byte const> bytes);
};

std::vector<target> tensor_targets();         ///< safetensors, zip, pickle, legacy, lightning, label_map
std::vector<target> picture_targets();        ///< png, jpeg, stb_png, stb_jpeg
std::vector<target> text_targets();           ///< class_list, csv, json
std::vector<target> resume_targets();         ///< resume
std::vector<target> large_targets();          ///< large
std::vector<target> pack_targets();           ///< pack_index, pack_shard, pack_map, jpeg_part, jpeg_restarts
std::vector<target> configuration_targets();  ///< config, model_toml, model_json

/// Writes a training checkpoint that the target `resume` takes.
void write_checkpoint_seed(std::filesystem::path const& path);

/// All of them.
inline std::vector<target> all_targets() {
  std::vector<target> out;
  for (auto const& part : {tensor_targets(), picture_targets(), text_targets(), resume_targets(), large_targets(),
                           pack_targets(), configuration_targets()})
    out.insert(out.end(), part.begin(), part.end());
  return out;
}

}  // namespace dm2::fuzz
