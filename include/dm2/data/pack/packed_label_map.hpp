/// @file
/// Label maps in few bytes, the same numbers: halves where they hold every score, classes in one to four bytes.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/half.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace dm2::detail {

/// What a packed label map begins with: 8 bytes. Then 5 * height * width scores, and as many classes.
struct packed_map_head {
  std::uint16_t height = 0, width = 0;
  std::uint8_t score_bytes = 4;  ///< of a score: 2 for half, 4 for float
  std::uint8_t class_bytes = 4;  ///< of a class, a whole number without sign: 1, 2 or 4
  std::uint16_t reserved = 0;
};
static_assert(sizeof(packed_map_head) == 8);

/// Appends a number's first bytes.
template <class T>
void append_number(std::vector<std::byte>& to, T value) {
  auto const bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

/// A label map as a packed set holds it. The map has been checked (check_label_map_values).
[[nodiscard]] inline std::vector<std::byte> pack_label_map(label_map_data const& map) {
  std::span<float const> const all{map.values}, scores = all.first(all.size() / 2),
                                                classes = all.subspan(scores.size());
  bool const halves =
      std::all_of(scores.begin(), scores.end(), [](float v) { return half_to_float(float_to_half(v)) == v; });
  float const most = *std::max_element(classes.begin(), classes.end());
  packed_map_head const head{std::uint16_t(map.height), std::uint16_t(map.width), std::uint8_t(halves ? 2 : 4),
                             std::uint8_t(most < 256     ? 1
                                          : most < 65536 ? 2
                                                         : 4)};
  std::vector<std::byte> out;
  append_number(out, head);
  for (float const v : scores) {
    if (halves)
      append_number(out, float_to_half(v));
    else
      append_number(out, v);
  }
  for (float const v : classes) {
    if (head.class_bytes == 1)
      append_number(out, std::uint8_t(v));
    else if (head.class_bytes == 2)
      append_number(out, std::uint16_t(v));
    else
      append_number(out, std::uint32_t(v));
  }
  return out;
}

/// The label map in a packed set's bytes. Throws file_error naming `name`, the field and both numbers, and as
/// check_label_map_values does.
[[nodiscard]] inline label_map_data unpack_label_map(std::span<std::byte const> bytes, int classes,
                                                     std::filesystem::path const& name) {
  auto const refuse = [&](char const* field, std::size_t got, std::string const& expected) {
    throw file_error{name, std::string{"label map in a packed set: "} + field + " is " + std::to_string(got) +
                               ", expected " + expected};
  };
  if (bytes.size() < sizeof(packed_map_head)) refuse("size", bytes.size(), "at least 8");
  auto const head = read_le<packed_map_head>(bytes.data());
  if (head.height < 1 || head.height > max_label_map_side) refuse("height", head.height, "1 to 512");
  if (head.width < 1 || head.width > max_label_map_side) refuse("width", head.width, "1 to 512");
  if (head.score_bytes != 2 && head.score_bytes != 4) refuse("bytes of a score", head.score_bytes, "2 or 4");
  if (head.class_bytes != 1 && head.class_bytes != 2 && head.class_bytes != 4)
    refuse("bytes of a class", head.class_bytes, "1, 2 or 4");
  std::size_t const half = std::size_t{5} * head.height * head.width;
  std::size_t const want = sizeof head + half * (std::size_t{head.score_bytes} + head.class_bytes);
  if (bytes.size() != want) refuse("size", bytes.size(), std::to_string(want));
  label_map_data map{head.height, head.width, std::vector<float>(2 * half)};
  std::byte const* at = bytes.data() + sizeof head;
  for (std::size_t i = 0; i < half; ++i, at += head.score_bytes)
    map.values[i] = head.score_bytes == 2 ? half_to_float(read_le<std::uint16_t>(at)) : read_le<float>(at);
  for (std::size_t i = half; i < 2 * half; ++i, at += head.class_bytes)
    map.values[i] = head.class_bytes == 1   ? float(read_le<std::uint8_t>(at))
                    : head.class_bytes == 2 ? float(read_le<std::uint16_t>(at))
                                            : float(read_le<std::uint32_t>(at));
  check_label_map_values(map, classes, name);
  return map;
}

}  // namespace dm2::detail
