/// @file
/// A label map as the published ones are stored: a torch file of half-precision numbers [2, 5, H, W].
#pragma once

#include <dm2/data/label_map_file.hpp>
#include <dm2/io/half.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/torch_write.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2::example::shapes {

/// The bytes of the file. Class indices up to 2048 are exact in half precision.
[[nodiscard]] inline std::vector<std::byte> encode_label_map(label_map_data const& map) {
  std::vector<std::uint16_t> halves;
  halves.reserve(map.values.size());
  for (float v : map.values) halves.push_back(float_to_half(v));
  stored_tensor t;
  t.type = dtype::f16;
  t.shape = {2, 5, map.height, map.width};
  t.strides = dm2::detail::contiguous_strides(t.shape);
  t.data = reinterpret_cast<std::byte const*>(halves.data());
  return encode_torch(t);
}

}  // namespace dm2::example::shapes
