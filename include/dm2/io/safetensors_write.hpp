/// @file
/// Writing the safetensors format.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// Tensor numbers in the order of their data: widest elements first, else as given, so that every tensor is aligned to
/// its own width.
inline std::vector<std::size_t> data_order(std::span<stored_tensor const> tensors) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return size_of(tensors[a].type) > size_of(tensors[b].type); });
  return order;
}

/// Header bytes, the length in front included; a multiple of 8 in all.
inline std::string safetensors_header_text(std::span<stored_tensor const> tensors, std::span<std::size_t const> order,
                                           std::map<std::string, std::string> const& metadata) {
  std::vector<std::uint64_t> first(tensors.size());
  std::uint64_t at = 0;
  for (std::size_t i : order) {
    first[i] = at;
    at += tensors[i].size() * size_of(tensors[i].type);
  }
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  auto& object = header.get_ref<nlohmann::ordered_json::object_t&>();
  object.reserve(tensors.size() + 1);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    stored_tensor const& t = tensors[i];
    nlohmann::ordered_json entry{{"dtype", name_of(t.type)}};
    entry["shape"] = t.shape;
    entry["data_offsets"] = {first[i], first[i] + t.size() * size_of(t.type)};
    object.push_back({t.name, std::move(entry)});  // names are known to differ: no search
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::uint64_t const length = text.size();
  return std::string(reinterpret_cast<char const*>(&length), sizeof length) + text;
}

/// Writes t's elements in row-major order; a strided tensor goes through a buffer of 64 KiB.
inline void write_elements(atomic_file& file, stored_tensor const& t) {
  auto const width = static_cast<std::int64_t>(size_of(t.type));
  std::vector<std::byte> buffer;
  auto const flush = [&] {
    file.write(buffer);
    buffer.clear();
  };
  for_each_row(t, [&](std::byte const* from, std::int64_t step, std::size_t count) {
    if (step == width && buffer.empty() && count == t.size())
      return file.write({from, count * static_cast<std::size_t>(width)});
    if (buffer.capacity() == 0) buffer.reserve(std::size_t{1} << 16);
    for (std::size_t k = 0; k < count; ++k) {
      std::byte const* element = from + static_cast<std::int64_t>(k) * step;
      buffer.insert(buffer.end(), element, element + width);
      if (buffer.size() + 8 > buffer.capacity()) flush();
    }
  });
  if (!buffer.empty()) flush();
}

}  // namespace detail

/// Writes tensors and metadata to `path`, whole or not at all (atomic_file). The header lists the tensors as given; the
/// data follow widest elements first, each aligned to its own width. Strided tensors are written row-major.
///
/// Tensors may be views into another open file, or of any memory: only name, type, shape, strides and data are read.
/// They may not be views into `path` itself on systems where a mapped file cannot be replaced.
///
/// Throws file_error where a name is given twice, is "__metadata__" or is not UTF-8, or the file cannot be written.
inline void write_safetensors(std::filesystem::path const& path, std::span<stored_tensor const> tensors,
                              std::map<std::string, std::string> const& metadata = {}) {
  std::unordered_set<std::string_view> names;
  for (stored_tensor const& t : tensors)
    if (t.name == "__metadata__" || !names.insert(t.name).second)
      throw file_error{path, "safetensors: cannot hold tensor '" + t.name + "' (reserved, or given twice)"};
  auto const order = detail::data_order(tensors);
  std::string header;
  try {
    header = detail::safetensors_header_text(tensors, order, metadata);
  } catch (nlohmann::json::exception const& problem) {
    throw file_error{path, std::string{"safetensors: a name or metadata is not text: "} + problem.what()};
  }
  atomic_file file{path};
  file.write(std::as_bytes(std::span{header}));
  for (std::size_t i : order) detail::write_elements(file, tensors[i]);
  file.commit();
}

}  // namespace dm2
