/// @file
/// Label-map files for tests. They are safetensors whatever their name, which readers tell by the content.
#pragma once

#include <dm2/io/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <vector>

namespace dm2::test {

/// float32 values of some shape as the stored tensor `name`; `values` has to live as long.
inline stored_tensor tensor_view(std::string const& name, std::vector<float> const& values,
                                 std::vector<std::int64_t> const& shape) {
  stored_tensor t;
  t.name = name;
  t.shape = shape;
  t.strides = detail::contiguous_strides(shape);
  t.data = reinterpret_cast<std::byte const*>(values.data());
  return t;
}

/// Values [2, 5, height, width]: score i/8 at the i-th point, and class (i + first) % classes.
inline std::vector<float> label_map_values(int height, int width, int classes, int first = 0) {
  int const half = 5 * height * width;
  std::vector<float> values;
  for (int i = 0; i < half; ++i) values.push_back(float(i) / 8);
  for (int i = 0; i < half; ++i) values.push_back(float((i + first) % classes));
  return values;
}

/// Written byte by byte: write_safetensors waits for the disk, which takes longer than all else in a test.
inline void write_label_map(std::filesystem::path const& path, std::vector<float> const& values, int height,
                            int width) {
  std::string const header = R"({"label":{"dtype":"F32","shape":[2,5,)" + std::to_string(height) + "," +
                             std::to_string(width) + R"(],"data_offsets":[0,)" +
                             std::to_string(values.size() * sizeof(float)) + "]}}";
  std::uint64_t const length = header.size();
  std::ofstream out{path, std::ios::binary};
  out.write(reinterpret_cast<char const*>(&length), sizeof length) << header;
  out.write(reinterpret_cast<char const*>(values.data()), std::streamsize(values.size() * sizeof(float)));
}

}  // namespace dm2::test
