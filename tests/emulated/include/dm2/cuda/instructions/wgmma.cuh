/// @file
/// The instructions of dm2/cuda/instructions/wgmma.cuh on the host.
///
/// Products read their operands when they are waited for, as late as they may. A kernel's products are all down (a b),
/// or none, or those of wgmma_slices.cuh.
#pragma once

#include "../../../../tiles.hpp"

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace dm2::cuda::detail {

inline constexpr bool hopper_code = true;
template <class Kernel>
bool has_hopper_code(char const*, Kernel) {
  return emulated::device::get().major == 9;
}

inline void mark_hopper_code() {}

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
  bool a_down = false, b_down = false;  ///< of wgmma_slices.cuh, whose kernels mix them
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

/// The lanes' i-th product, of operands that have been read.
inline void add_products(std::array<std::vector<pending_product>*, 32> const& all, std::size_t i,
                         float const (&a)[16][16], float const (&b)[16][192]) {
  int const columns = (*all[0])[i].columns;
  float sums[16][192];
  emulated::multiply_rows(a, b, columns, sums);
  for (int l = 0; l < 32; ++l) {
    pending_product const& mine = (*all[std::size_t(l)])[i];
    for (int j = 0; j < columns / 2; ++j)
      mine.d[j] = (mine.add ? mine.d[j] : 0.f) + sums[l / 4 + j / 2 % 2 * 8][j / 4 * 8 + l % 4 * 2 + j % 2];
  }
}

/// A left operand from the lanes' registers.
template <class T>
void read_fragments(std::array<std::vector<pending_product>*, 32> const& all, std::size_t i, float (&a)[16][16]) {
  for (int l = 0; l < 32; ++l)
    for (int j = 0; j < 4; ++j) {
      auto const v = unpack<T>((*all[std::size_t(l)])[i].fragment[j]);
      float* const pair = &a[l / 4 + j % 2 * 8][l % 4 * 2 + j / 2 * 8];
      pair[0] = v.x, pair[1] = v.y;
    }
}

template <class T>
void multiply_pending(std::array<std::vector<pending_product>*, 32> const& all) {
  int const warp = int(threadIdx.x) / 32 % 4;
  for (std::size_t i = 0; i < all[0]->size(); ++i) {
    pending_product const& first = (*all[0])[i];
    float a[16][16], b[16][192];
    for (int r = 0; r < first.columns; ++r) {
      float column[16];
      read_operand<T>(first.b, r, column);
      for (int k = 0; k < 16; ++k) b[k][r] = column[k];
    }
    if (first.fragment == nullptr)
      for (int r = 0; r < 16; ++r) read_operand<T>(first.a, warp * 16 + r, a[r]);
    else
      read_fragments<T>(all, i, a);
    add_products(all, i, a, b);
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
void multiply_wide(float (&d)[48], std::uint64_t a, std::uint64_t b) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 96, nullptr, a, b, true});
}
template <class T>
void multiply_chunk(float (&d)[36], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 72, a, 0, b, add});
}

template <class T>
void multiply_plane(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 64, a, 0, b, true});
}

inline std::uint64_t operand_down(std::uint32_t at, int apart) {
  if (at % 1024 != 0 || apart % 1024 != 0 || apart >= 1 << 18)
    throw std::logic_error{"a product's operand that is not aligned"};
  return at >> 4 | std::uint64_t(apart) << 32;
}
inline std::uint64_t further_down(std::uint64_t operand, int steps) { return operand + std::uint64_t(128 * steps); }

/// Row k of an operand's 16, `columns` of them, as float.
template <class T>
void read_operand_down(std::uint64_t operand, std::uint32_t k, std::uint32_t columns, float* to) {
  for (std::uint32_t c = 0; c < columns; c += 8) {
    std::uint32_t at = (std::uint32_t(operand) << 4) + c / 64 * std::uint32_t(operand >> 32) + k * 128 + c % 64 * 2;
    at ^= (at >> 7 & 7u) << 4;
    T v[8];
    std::memcpy(v, emulated::machine::current().at(at, 16), 16);
    for (std::uint32_t i = 0; i < 8; ++i) to[c + i] = to_float(v[i]);
  }
}

template <class T>
void multiply_pending_down(std::array<std::vector<pending_product>*, 32> const& all) {
  int const warp = int(threadIdx.x) / 32 % 4;
  for (std::size_t i = 0; i < all[0]->size(); ++i) {
    pending_product const& first = (*all[0])[i];
    float a[16][16], b[16][192];
    for (std::uint32_t k = 0; k < 16; ++k) read_operand_down<T>(first.b, k, std::uint32_t(first.columns), b[k]);
    for (int r = 0; first.fragment == nullptr && r < 16; ++r) read_operand<T>(first.a, warp * 16 + r, a[r]);
    if (first.fragment != nullptr) read_fragments<T>(all, i, a);
    add_products(all, i, a, b);
  }
}

template <class T>
void multiply_wide_down(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  product_of_type() = multiply_pending_down<T>;
  products_of_thread().back().push_back({d, 192, nullptr, a, b, true});
}
template <class T>
void multiply_wide_down(float (&d)[96], std::uint32_t const (&a)[4], std::uint64_t b) {
  product_of_type() = multiply_pending_down<T>;
  products_of_thread().back().push_back({d, 192, a, 0, b, true});
}
template <class T>
void multiply_chunk_down(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  product_of_type() = multiply_pending_down<T>;
  products_of_thread().back().push_back({d, 64, a, 0, b, add});
}

}  // namespace dm2::cuda::detail
