/// @file
/// The instructions of dm2/cuda/instructions/wgmma_slices.cuh on the host.
#pragma once

#include <dm2/cuda/instructions/wgmma.cuh>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dm2::cuda::detail {

enum class operand_lies : int { across = 0, down = 1 };

/// A lane's i-th product of 16 rows: a [16, 16] as its warp reads it.
template <class T>
void read_left(std::array<std::vector<pending_product>*, 32> const& all, std::size_t i, float (&a)[16][16]) {
  pending_product const& first = (*all[0])[i];
  int const warp = int(threadIdx.x) / 32 % 4;
  if (first.fragment != nullptr) return read_fragments<T>(all, i, a);
  for (int r = 0; r < 16; ++r) {
    if (!first.a_down) {
      read_operand<T>(first.a, warp * 16 + r, a[r]);
      continue;
    }
    float across[64];
    read_operand_down<T>(first.a, std::uint32_t(r), 64, across);
    for (int m = 0; m < 16; ++m) a[m][r] = across[warp * 16 + m];
  }
}

template <class T>
void multiply_pending_slices(std::array<std::vector<pending_product>*, 32> const& all) {
  for (std::size_t i = 0; i < all[0]->size(); ++i) {
    pending_product const& first = (*all[0])[i];
    float a[16][16], b[16][192];
    for (int r = 0; !first.b_down && r < first.columns; ++r) {
      float column[16];
      read_operand<T>(first.b, r, column);
      for (int k = 0; k < 16; ++k) b[k][r] = column[k];
    }
    for (std::uint32_t k = 0; first.b_down && k < 16; ++k)
      read_operand_down<T>(first.b, k, std::uint32_t(first.columns), b[k]);
    read_left<T>(all, i, a);
    add_products(all, i, a, b);
  }
}

template <class T, operand_lies A, operand_lies B, int N>
void multiply_slice(float (&d)[N], std::uint64_t a, std::uint64_t b, bool add) {
  product_of_type() = multiply_pending_slices<T>;
  products_of_thread().back().push_back(
      {d, 2 * N, nullptr, a, b, add, A == operand_lies::down, B == operand_lies::down});
}
template <class T, int N>
void multiply_slice_down(float (&d)[N], std::uint32_t const (&a)[4], std::uint64_t b) {
  product_of_type() = multiply_pending_slices<T>;
  products_of_thread().back().push_back({d, 2 * N, a, 0, b, true, false, true});
}

/// A lane's part of store_matrix_transposed.
struct stored_matrices {
  std::uint32_t const* r;
  std::uint32_t address;
};
inline void store_matrices_transposed(std::array<stored_matrices*, 32> const& all) {
  auto& m = emulated::machine::current();
  for (unsigned i = 0; i < 4; ++i) {
    std::uint16_t matrix[8][8];
    for (unsigned l = 0; l < 32; ++l) {
      unsigned const g = l / 4, t = l % 4 * 2;
      matrix[t][g] = std::uint16_t(all[l]->r[i]), matrix[t + 1][g] = std::uint16_t(all[l]->r[i] >> 16);
    }
    for (unsigned r = 0; r < 8; ++r) std::memcpy(m.at(all[8 * i + r]->address, 16), matrix[r], 16);
  }
}
inline void store_matrix_transposed(std::uint32_t address, std::uint32_t const (&r)[4]) {
  stored_matrices mine{r, address};
  emulated::machine::current().together("store_matrix_transposed", mine, store_matrices_transposed);
}

}  // namespace dm2::cuda::detail
