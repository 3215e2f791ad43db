/// @file
/// The instructions of dm2/cuda/instructions/wgmma.cuh on the host. Copies into shared memory leave NaN until somebody waits for
/// their barrier's phase; copies out of it, and products, read their operands when they are waited for, as late as they
/// may.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::cuda::detail {

inline constexpr bool hopper_code = true;
template <class Kernel>
bool has_hopper_code(char const*, Kernel) {
  return emulated::device::get().major == 9;
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
void for_each_piece(tensor_map const& map, int row, int column, std::uint32_t at, Piece const& piece) {
  int const element = map.tile_bytes / map.tile.columns;
  if (column * element % 16 != 0) throw std::logic_error{"a tile whose columns are not aligned"};
  if (at % (map.tile.swizzled ? 1024 : 128) != 0) throw std::logic_error{"a tile in shared memory that is not aligned"};
  for (int r = 0; r < map.tile.rows; ++r)
    for (int b = 0; b < map.tile_bytes; b += 16) {
      std::uint32_t to = at + std::uint32_t(r * map.tile_bytes + b);
      if (map.tile.swizzled) to ^= (to >> 7 & 7u) << 4;
      bool const inside = row + r < map.rows && column * element + b < map.row_bytes;
      piece(emulated::machine::current().at(to, 16),
            inside ? map.data + std::ptrdiff_t(row + r) * map.row_bytes + column * element + b : nullptr);
    }
}
inline void load_box(std::uint32_t to, tensor_map const& map, int row, int column, std::uint32_t barrier) {
  for_each_piece(map, row, column, to, [&](unsigned char* shared, unsigned char* global) {
    std::memset(shared, 0xff, 16);
    copies_to(barrier).push_back({shared, global, 16});
  });
  emulated::machine::current().wake(barrier);
}
inline void store_box(tensor_map const& map, int row, int column, std::uint32_t from) {
  for_each_piece(map, row, column, from, [](unsigned char* shared, unsigned char* global) {
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
template <int N>
void release_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
}
template <int N>
void claim_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
}

inline std::uint64_t product_operand(std::uint32_t at) {
  if (at % 1024 != 0) throw std::logic_error{"a product's operand that is not aligned"};
  return at >> 4;
}
inline std::uint64_t further(std::uint64_t operand, int steps) { return operand + std::uint64_t(2 * steps); }

/// One product of a lane, done when it is waited for: a warp does 16 of its warpgroup's 64 rows.
struct pending_product {
  float* d;
  int columns;
  std::uint32_t const* fragment;  ///< of a, or null
  std::uint64_t a, b;
  bool add;
};
inline std::deque<std::vector<pending_product>>& products_of_thread() {
  static thread_local std::array<std::deque<std::vector<pending_product>>, 1024> all;
  auto& mine = all[threadIdx.x];
  if (mine.empty()) mine.emplace_back();
  return mine;
}

/// Row r of a swizzled operand, 16 columns, as float.
template <class T>
void read_operand(std::uint64_t operand, int r, float* to) {
  for (std::uint32_t half = 0; half < 2; ++half) {
    std::uint32_t at = (std::uint32_t(operand) << 4) + half * 16 + std::uint32_t(r / 8 * 1024 + r % 8 * 128);
    at ^= (at >> 7 & 7u) << 4;
    T v[8];
    std::memcpy(v, emulated::machine::current().at(at, 16), 16);
    for (std::uint32_t i = 0; i < 8; ++i) to[half * 8 + i] = to_float(v[i]);
  }
}

template <class T>
void multiply_pending(std::array<std::vector<pending_product>*, 32> const& all) {
  int const warp = int(threadIdx.x) / 32 % 4;
  for (std::size_t i = 0; i < all[0]->size(); ++i) {
    pending_product const& first = (*all[0])[i];
    float a[16][16], b[192][16];
    for (int r = 0; r < first.columns; ++r) read_operand<T>(first.b, r, b[r]);
    if (first.fragment == nullptr)
      for (int r = 0; r < 16; ++r) read_operand<T>(first.a, warp * 16 + r, a[r]);
    else
      for (int l = 0; l < 32; ++l)
        for (int j = 0; j < 4; ++j) {
          auto const v = unpack<T>((*all[std::size_t(l)])[i].fragment[j]);
          a[l / 4 + j % 2 * 8][l % 4 * 2 + j / 2 * 8] = v.x, a[l / 4 + j % 2 * 8][l % 4 * 2 + j / 2 * 8 + 1] = v.y;
        }
    for (int l = 0; l < 32; ++l) {
      pending_product const& mine = (*all[std::size_t(l)])[i];
      for (int j = 0; j < first.columns / 2; ++j) {
        float const *const x = a[l / 4 + j / 2 % 2 * 8], *const y = b[j / 4 * 8 + l % 4 * 2 + j % 2];
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
        mine.d[j] = (mine.add ? mine.d[j] : 0.f) + sum;
      }
    }
  }
}

/// What does a thread's products, whose type they do not name.
inline auto& product_of_type() {
  static thread_local void (*f)(std::array<std::vector<pending_product>*, 32> const&) = nullptr;
  return f;
}
template <int N>
void hold(float (&)[N]) {}
inline void keep_order() {}
inline void fence_products() {}
inline void commit_products() { products_of_thread().emplace_back(); }
template <int N>
void wait_products() {
  auto& groups = products_of_thread();
  while (groups.size() > N + 1u) {
    emulated::machine::current().together("wait_products", groups.front(), product_of_type());
    groups.pop_front();
  }
}
template <class T>
void multiply_wide(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 192, nullptr, a, b, true});
}
template <class T>
void multiply_chunk(float (&d)[36], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 72, a, 0, b, add});
}

}  // namespace dm2::cuda::detail
