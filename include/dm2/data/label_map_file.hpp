/// @file
/// The reading of a token-label map from a file.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/label_map_data.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_file.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {

/// The longest side of a label map that is read. The published maps have 18 points a side; the limit bounds the memory
/// that a file with strides of zero can ask for to 10 MiB.
inline constexpr int max_label_map_side = 512;

namespace detail {

/// The one tensor of the file, [2, 5, H, W]; file_error otherwise.
inline stored_tensor const& label_map_tensor(tensor_file const& file) {
  if (file.tensors().size() != 1)
    throw file_error{file.path(), "holds " + std::to_string(file.tensors().size()) +
                                      " tensors; a label map is one tensor of shape [2, 5, H, W]"};
  stored_tensor const& t = file.tensors().front();
  bool const fits = t.shape.size() == 4 && t.shape[0] == 2 && t.shape[1] == 5 && t.shape[2] >= 1 && t.shape[3] >= 1;
  if (!fits)
    throw file_error{file.path(),
                     "holds a tensor of shape " + shape_text(t.shape) + "; a label map has shape [2, 5, H, W]"};
  if (t.shape[2] > max_label_map_side || t.shape[3] > max_label_map_side)
    throw file_error{file.path(), "holds a label map of shape " + shape_text(t.shape) + "; a side has at most " +
                                      std::to_string(max_label_map_side) + " points"};
  if (!is_floating(t.type))
    throw file_error{file.path(), "holds elements of type " + std::string{name_of(t.type)} +
                                      "; a label map has floating-point ones, its scores being among them"};
  return t;
}

/// "at [k, y, x] ": where the i-th value of a plane set [5, height, width] is.
inline std::string label_map_place(std::size_t i, int height, int width) {
  std::size_t const columns = std::size_t(width), cells = std::size_t(height) * columns;
  return "[" + std::to_string(i / cells) + ", " + std::to_string(i % cells / columns) + ", " +
         std::to_string(i % columns) + "]";
}

}  // namespace detail

/// Throws file_error naming `path` unless every score is finite and every index a whole number from 0 to classes - 1.
/// The first value that is not is named with its place.
inline void check_label_map_values(label_map_data const& map, int classes, std::filesystem::path const& path) {
  std::span<float const> const all{map.values};
  std::size_t const half = all.size() / 2;
  auto const refuse = [&](char const* what, std::size_t i, float got, std::string const& expected) {
    throw file_error{path, std::string{what} + detail::label_map_place(i, map.height, map.width) + " is " +
                               std::to_string(got) + ", expected " + expected};
  };
  for (std::size_t i = 0; i < half; ++i) {
    if (!std::isfinite(all[i])) refuse("score ", i, all[i], "a finite number");
    float const index = all[half + i];
    if (!(index >= 0 && double(index) <= double(classes) - 1 && index == std::trunc(index)))
      refuse("class index ", i, index, "a whole number from 0 to " + std::to_string(classes - 1));
  }
}

/// Reads a label map: a torch file (.pt, either format) or a safetensors file with one floating-point tensor
/// [2, 5, H, W], of any strides. The published files hold half precision, which has every whole number up to 2048:
/// maps for more classes than 2049 need float32.
///
/// Returns  the scores and the indices as float, in row-major order.
/// Throws   file_error naming the file and the reason: it cannot be read or is refused (tensor_file); it holds another
///          number of tensors, another shape or type; a score is not finite, or an index not a whole number from 0 to
///          classes - 1 (by default, any that float counts exactly). The result takes at most
///          4 * 10 * max_label_map_side^2 bytes.
[[nodiscard]] inline label_map_data read_label_map(std::filesystem::path const& path, int classes = 1 << 24) {
  tensor_file const file{path};
  stored_tensor const& t = detail::label_map_tensor(file);
  label_map_data map{int(t.shape[2]), int(t.shape[3]), std::vector<float>(t.size())};
  copy_to(t, std::span<float>{map.values});
  check_label_map_values(map, classes, path);
  return map;
}

}  // namespace dm2
