/// @file
/// The products of dm2/cuda/instructions/product_down.cuh on the host: all of a kernel's, or none.
#pragma once

#include <dm2/cuda/instructions/wgmma.cuh>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace dm2::cuda::detail {

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
    for (int l = 0; first.fragment != nullptr && l < 32; ++l)
      for (int j = 0; j < 4; ++j) {
        auto const v = unpack<T>((*all[std::size_t(l)])[i].fragment[j]);
        float* const pair = &a[l / 4 + j % 2 * 8][l % 4 * 2 + j / 2 * 8];
        pair[0] = v.x, pair[1] = v.y;
      }
    for (int l = 0; l < 32; ++l) {
      pending_product const& mine = (*all[std::size_t(l)])[i];
      for (int j = 0; j < first.columns / 2; ++j) {
        float const* const x = a[l / 4 + j / 2 % 2 * 8];
        int const column = j / 4 * 8 + l % 4 * 2 + j % 2;
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += x[k] * b[k][column];
        mine.d[j] = (mine.add ? mine.d[j] : 0.f) + sum;
      }
    }
  }
}

template <class T>
void multiply_wide_down(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  product_of_type() = multiply_pending_down<T>;
  products_of_thread().back().push_back({d, 192, nullptr, a, b, true});
}
template <class T>
void multiply_chunk_down(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  product_of_type() = multiply_pending_down<T>;
  products_of_thread().back().push_back({d, 64, a, 0, b, add});
}

}  // namespace dm2::cuda::detail
