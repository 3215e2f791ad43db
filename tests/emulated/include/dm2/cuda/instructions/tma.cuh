/// @file
/// The instructions of dm2/cuda/instructions/tma.cuh on the host.
///
/// Maps are refused as the driver refuses them. Copies into shared memory leave NaN until somebody waits for their
/// barrier's phase; copies out of it read it when they are waited for, as late as they may.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

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
  std::size_t matrices;
};
struct matrix_batch {
  std::size_t count, rows;
  int columns;
};

template <class T>
tensor_map make_tensor_map(T const* data, matrix_batch const& of, tile_shape tile) {
  auto const address = reinterpret_cast<std::uintptr_t>(data);
  int const row_bytes = of.columns * int(sizeof(T)), tile_bytes = tile.columns * int(sizeof(T));
  if (address % 16 != 0 || of.count == 0 || of.rows == 0 || of.columns <= 0 || row_bytes % 16 != 0 ||
      tile_bytes % 16 != 0 || tile.rows < 1 || tile.rows > 256 || tile.columns < 1 || tile.columns > 256 ||
      (tile.swizzled && tile_bytes > 128))
    throw error{"tensor map: refused by the emulation"};
  return {reinterpret_cast<unsigned char*>(address), int(of.rows), row_bytes, tile, tile_bytes, of.count};
}
template <class T>
tensor_map make_tensor_map(T const* data, std::size_t rows, int columns, tile_shape tile) {
  return make_tensor_map(data, matrix_batch{1, rows, columns}, tile);
}

/// A barrier in shared memory.
struct emulated_phases {
  std::int16_t count, missing;
  std::int32_t bytes : 31;
  std::uint32_t phase : 1;
};
inline emulated_phases& phases_at(std::uint32_t at) {
  return *reinterpret_cast<emulated_phases*>(emulated::machine::current().at(at, 8));
}
/// Copies under way to a barrier.
inline std::vector<emulated::pending_copy>& copies_to(std::uint32_t barrier) {
  static thread_local std::map<std::uint32_t, std::vector<emulated::pending_copy>> all;
  return all[barrier];
}
inline void end_phase_if_complete(std::uint32_t at) {
  auto& p = phases_at(at);
  if (p.missing < 0) throw std::logic_error{"more arrivals at a barrier than it counts"};
  if (p.missing != 0 || p.bytes != 0) return;
  p.missing = p.count;
  p.phase ^= 1u;
  emulated::machine::current().wake(at);
}
inline void init_phases(std::uint32_t at, int count) {
  auto const n = std::int16_t(count);
  phases_at(at) = {n, n, 0, 0};
  copies_to(at).clear();
}
inline void publish_phases() {}
inline void arrive(std::uint32_t at) {
  --phases_at(at).missing;
  end_phase_if_complete(at);
}
inline void arrive_expecting(std::uint32_t at, int bytes) {
  phases_at(at).bytes += bytes;
  arrive(at);
}
inline void wait_phase(std::uint32_t at, unsigned parity) {
  while (phases_at(at).phase == parity) {
    auto landing = std::exchange(copies_to(at), {});
    for (auto const& c : landing) {
      if (c.from == nullptr)
        std::memset(c.to, 0, c.bytes);
      else
        std::memcpy(c.to, c.from, c.bytes);
      phases_at(at).bytes -= std::int32_t(c.bytes);
    }
    if (!landing.empty())
      end_phase_if_complete(at);
    else
      emulated::machine::current().sleep(at);
  }
}

/// Calls piece(shared, global) for each 16 bytes of a tile; global is null outside the matrix.
template <class Piece>
void for_each_piece(tensor_map const& map, int matrix, int row, int column, std::uint32_t at, Piece const& piece) {
  if (matrix < 0 || std::size_t(matrix) >= map.matrices) throw std::logic_error{"a tile of no matrix"};
  int const element = map.tile_bytes / map.tile.columns;
  if (column * element % 16 != 0) throw std::logic_error{"a tile whose columns are not aligned"};
  if (at % (map.tile.swizzled ? 1024 : 128) != 0) throw std::logic_error{"a tile in shared memory that is not aligned"};
  for (int r = 0; r < map.tile.rows; ++r)
    for (int b = 0; b < map.tile_bytes; b += 16) {
      std::uint32_t to = at + std::uint32_t(r * map.tile_bytes + b);
      if (map.tile.swizzled) to ^= (to >> 7 & 7u) << 4;
      int const byte = column * element + b;
      bool const inside = row + r >= 0 && row + r < map.rows && byte >= 0 && byte < map.row_bytes;
      std::ptrdiff_t const first = std::ptrdiff_t{matrix} * map.rows + row + r;
      piece(emulated::machine::current().at(to, 16), inside ? map.data + first * map.row_bytes + byte : nullptr);
    }
}
inline void load_box_of(std::uint32_t to, tensor_map const& map, int matrix, int row, int column,
                        std::uint32_t barrier) {
  for_each_piece(map, matrix, row, column, to, [&](unsigned char* shared, unsigned char* global) {
    std::memset(shared, 0xff, 16);
    copies_to(barrier).push_back({shared, global, 16});
  });
  emulated::machine::current().wake(barrier);
}
inline void load_box(std::uint32_t to, tensor_map const& map, int row, int column, std::uint32_t barrier) {
  load_box_of(to, map, 0, row, column, barrier);
}
inline void store_box(tensor_map const& map, int row, int column, std::uint32_t from) {
  for_each_piece(map, 0, row, column, from, [](unsigned char* shared, unsigned char* global) {
    if (global != nullptr) emulated::machine::current().copies().back().push_back({global, shared, 16});
  });
}
inline void commit_stores() { commit_copies(); }
template <int N>
void wait_stores() {
  wait_copies<N>();
}
inline void fence_copies() {}
inline void prefetch_map(tensor_map const&) {}

}  // namespace dm2::cuda::detail
