/// @file
/// The instructions of dm2/cuda/instructions/mma.cuh on the host: products in float, copies that land when they are
/// waited for.
#pragma once

#include "../../../../tiles.hpp"

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dm2::cuda::detail {

inline std::uint32_t shared_address(void const* p) { return std::uint32_t(reinterpret_cast<std::uintptr_t>(p)); }

/// A lane's part of a product.
struct product_operands {
  float* c;
  std::uint32_t const* a;
  std::uint32_t b[2];
};

template <class T>
void multiply_tiles(std::array<product_operands*, 32> const& all) {
  float a[16][16], b[16][8], sums[16][8];
  for (unsigned l = 0; l < 32; ++l) {
    unsigned const g = l / 4, t = l % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      auto const v = unpack<T>(all[l]->a[i]);
      float* const to = &a[g + i % 2 * 8][t + i / 2 * 8];
      to[0] = v.x, to[1] = v.y;
    }
    for (unsigned i = 0; i < 2; ++i) {
      auto const v = unpack<T>(all[l]->b[i]);
      b[t + 8 * i][g] = v.x, b[t + 8 * i + 1][g] = v.y;
    }
  }
  emulated::multiply_rows(a, b, 8, sums);
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned i = 0; i < 4; ++i) all[l]->c[i] += sums[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

template <class T>
void mma(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  static_assert(is_half<T>);
  product_operands mine{c, a, {b0, b1}};
  emulated::machine::current().together("mma", mine, multiply_tiles<T>);
}

/// Products of TF32, operands cut as the device cuts them.
inline void multiply_tf32(std::array<product_operands*, 32> const& all) {
  float a[16][8], b[8][8];  // b transposed
  auto const number = [](std::uint32_t bits) {
    bits &= ~0x1fffu;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  };
  for (unsigned l = 0; l < 32; ++l) {
    unsigned const g = l / 4, t = l % 4;
    for (unsigned i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = number(all[l]->a[i]);
    for (unsigned i = 0; i < 2; ++i) b[g][t + 4 * i] = number(all[l]->b[i]);
  }
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned i = 0; i < 4; ++i) {
      float const *const x = a[l / 4 + i / 2 * 8], *const y = b[l % 4 * 2 + i % 2];
      float sum = 0;
      for (unsigned k = 0; k < 8; ++k) sum += x[k] * y[k];
      all[l]->c[i] += sum;
    }
}
inline void mma_tf32(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  product_operands mine{c, a, {b0, b1}};
  emulated::machine::current().together("mma_tf32", mine, multiply_tf32);
}
inline void round_to_tf32(std::uint32_t& bits) {
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  bits &= ~0x1fffu;
}
template <int N>
void round_to_tf32(std::uint32_t (&bits)[N]) {
  for (auto& b : bits) round_to_tf32(b);
}

/// A lane's part of ldmatrix.
struct matrix_operands {
  std::uint32_t* r;
  std::uint32_t address;
};

template <bool Transposed>
void load_matrices(std::array<matrix_operands*, 32> const& all) {
  auto& m = emulated::machine::current();
  for (unsigned i = 0; i < 4; ++i) {
    std::uint16_t matrix[8][8];
    for (unsigned r = 0; r < 8; ++r) std::memcpy(matrix[r], m.at(all[8 * i + r]->address, 16), 16);
    for (unsigned l = 0; l < 32; ++l) {
      unsigned const g = l / 4, t = l % 4 * 2;
      std::uint16_t const low = Transposed ? matrix[t][g] : matrix[g][t];
      std::uint16_t const high = Transposed ? matrix[t + 1][g] : matrix[g][t + 1];
      all[l]->r[i] = low | std::uint32_t{high} << 16;
    }
  }
}
inline void load_matrix(std::uint32_t (&r)[4], std::uint32_t address) {
  matrix_operands mine{r, address};
  emulated::machine::current().together("load_matrix", mine, load_matrices<false>);
}
inline void load_matrix_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  matrix_operands mine{r, address};
  emulated::machine::current().together("load_matrix_transposed", mine, load_matrices<true>);
}

template <int Bytes = 16>
void copy_async(std::uint32_t to, void const* from, bool valid = true) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4);
  if (valid && reinterpret_cast<std::uintptr_t>(from) % Bytes != 0)
    throw std::logic_error{"a copy from an address that is not aligned"};
  auto& m = emulated::machine::current();
  unsigned char* const p = m.at(to, Bytes);
  std::memset(p, 0xff, Bytes);
  m.copies().back().push_back({p, valid ? from : nullptr, Bytes});
}
template <int N>
void load_shared(std::uint32_t (&r)[N], std::uint32_t address) {
  static_assert(N == 1 || N == 2 || N == 4);
  if (address % (4 * N) != 0) throw std::logic_error{"a load from shared memory that is not aligned"};
  std::memcpy(r, emulated::machine::current().at(address, 4 * N), 4 * N);
}
inline void commit_copies() { emulated::machine::current().copies().emplace_back(); }
template <int N>
void wait_copies() {
  auto& groups = emulated::machine::current().copies();
  while (groups.size() > N + 1u) {
    for (auto const& c : groups.front())
      if (c.from == nullptr)
        std::memset(c.to, 0, c.bytes);
      else
        std::memcpy(c.to, c.from, c.bytes);
    groups.pop_front();
  }
}

template <int Threads>
void barrier(int group) {
  emulated::machine::current().wait(unsigned(group) + 1, Threads);
}
inline void barrier(int group, int threads) {
  emulated::machine::current().wait(unsigned(group) + 1, unsigned(threads));
}
template <int Threads>
void arrive(int group) {
  emulated::machine::current().arrive(unsigned(group) + 1, Threads);
}
inline void hide(int&) {}
inline void hide(std::size_t&) {}
inline std::size_t global_address(void const* p) { return reinterpret_cast<std::size_t>(p); }
template <class T>
T* global_pointer(std::size_t address) {
  return reinterpret_cast<T*>(address);
}

inline float exp2_fast(float x) { return x < -126 ? 0.f : std::exp2(x); }
inline float tanh_fast(float x) { return tanh_rational(x); }
inline float silu_fast(float x) {
  float const h = 0.5f * x;
  return std::fma(h, tanh_fast(h), h);
}
inline float softplus(float x) { return fmaxf(x, 0.f) + std::log1p(std::exp(-std::fabs(x))); }
inline float silu(float x) { return x / (1.f + std::exp(-x)); }

inline constexpr float log2_e = 1.4426950408889634f;

}  // namespace dm2::cuda::detail
