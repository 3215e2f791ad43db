/// @file
/// Tensor maps on the host: the matrix and the tile, refused as the driver refuses them.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

struct tile_shape {
  int rows, columns;
  bool swizzled;
};
struct tensor_map {
  unsigned char* data;
  int rows, row_bytes;
  tile_shape tile;
  int tile_bytes;  ///< of a row of the tile
};

template <class T>
tensor_map make_tensor_map(T const* data, std::size_t rows, int columns, tile_shape tile) {
  auto const address = reinterpret_cast<std::uintptr_t>(data);
  int const row_bytes = columns * int(sizeof(T)), tile_bytes = tile.columns * int(sizeof(T));
  if (address % 16 != 0 || rows == 0 || columns <= 0 || row_bytes % 16 != 0 || tile_bytes % 16 != 0 || tile.rows < 1 ||
      tile.rows > 256 || tile.columns < 1 || tile.columns > 256 || (tile.swizzled && tile_bytes > 128))
    throw error{"tensor map: refused by the emulation"};
  return {reinterpret_cast<unsigned char*>(address), int(rows), row_bytes, tile, tile_bytes};
}

}  // namespace dm2::cuda::detail
