/// @file
/// Checksums of a safetensors file's tensors, kept in its metadata.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {

/// The metadata key of the checksums: a JSON object that has for each tensor's name the CRC-32C of its bytes, and under
/// the empty name that of the other metadata (each key and value, a zero byte behind each, in the order of the keys).
inline constexpr char const* checksums_key = "dm2.crc32c";

namespace detail {

/// The CRC-32C of a tensor's elements in row-major order, which is the order of a safetensors file.
[[nodiscard]] inline std::uint32_t tensor_checksum(stored_tensor const& t) {
  std::uint32_t sum = 0;
  std::size_t const width = size_of(t.type);
  for_each_row(t, [&](std::byte const* from, std::int64_t step, std::size_t count) {
    if (step == std::int64_t(width)) return void(sum = crc32c({from, count * width}, sum));
    for (std::size_t k = 0; k < count; ++k) sum = crc32c({from + std::int64_t(k) * step, width}, sum);
  });
  return sum;
}

/// The CRC-32C of all metadata but the checksums themselves.
[[nodiscard]] inline std::uint32_t metadata_checksum(std::map<std::string, std::string> const& metadata) {
  std::uint32_t sum = 0;
  for (auto const& [key, value] : metadata) {
    if (key == checksums_key) continue;
    for (std::string const* text : {&key, &value})
      sum = crc32c(std::as_bytes(std::span{text->c_str(), text->size() + 1}), sum);
  }
  return sum;
}

/// "1a2b3c4d"
[[nodiscard]] inline std::string checksum_text(std::uint32_t sum) {
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "%08x", unsigned{sum});
  return text.data();
}

/// What stands under checksums_key for these tensors and the rest of the metadata.
[[nodiscard]] inline std::string checksums_text(std::span<stored_tensor const> tensors,
                                                std::map<std::string, std::string> const& metadata) {
  auto object = nlohmann::json::object();
  object[""] = metadata_checksum(metadata);
  for (stored_tensor const& t : tensors) object[t.name] = tensor_checksum(t);
  return object.dump();
}

/// Gives each tensor the checksum that the metadata state, and holds the metadata against theirs. Returns whether there
/// are checksums; without them nothing is done, as with every file that another program wrote.
///
/// Throws file_error where they are damaged, or not of these tensors, or the metadata are not what they were.
inline bool take_checksums(std::span<stored_tensor> tensors, std::map<std::string, std::string> const& metadata,
                           std::filesystem::path const& path) {
  auto const found = metadata.find(checksums_key);
  if (found == metadata.end()) return false;
  auto const object = parse_json(found->second);
  auto const sum_of = [&](std::string const& name, std::string const& what) {
    auto const at = object.find(name);
    if (at == object.end() || !at->is_number_unsigned() || at->get<std::uint64_t>() > ~std::uint32_t{0})
      throw file_error{path,
                       "is damaged: its metadata '" + std::string{checksums_key} + "' have no checksum of " + what};
    return at->get<std::uint32_t>();
  };
  if (!object.is_object())
    throw file_error{path, "is damaged: its metadata '" + std::string{checksums_key} + "' are no JSON object"};
  std::uint32_t const want = sum_of("", "the metadata"), is = metadata_checksum(metadata);
  if (is != want)
    throw file_error{path, "is damaged: its metadata have the CRC-32C " + checksum_text(is) + ", and had " +
                               checksum_text(want) + " when they were written"};
  if (object.size() != tensors.size() + 1)
    throw file_error{path, "is damaged: it has checksums of " + std::to_string(object.size() - 1) + " tensors, and " +
                               std::to_string(tensors.size()) + " tensors"};
  for (stored_tensor& t : tensors) t.checksum = sum_of(t.name, "tensor '" + t.name + "'");
  return true;
}

}  // namespace detail

/// Reads the tensor and throws file_error, naming it and `path`, where its bytes are not those that the file's checksum
/// is of. A tensor without a checksum passes unread.
inline void require_checksum(stored_tensor const& t, std::filesystem::path const& path) {
  if (!t.checksum) return;
  std::uint32_t const is = detail::tensor_checksum(t);
  if (is != *t.checksum)
    throw file_error{path, "is damaged: tensor '" + t.name + "' has the CRC-32C " + detail::checksum_text(is) +
                               ", and had " + detail::checksum_text(*t.checksum) + " when it was written"};
}

}  // namespace dm2
