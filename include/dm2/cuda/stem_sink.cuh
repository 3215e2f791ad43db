/// @file
/// Where the projection's sums go: the patch grid, token rows, or parts of a sum that was split.
///
/// A sink takes number v of row `row` and column `column`, or two of consecutive columns, the first one even.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>

namespace dm2::cuda::detail {

/// Bias added, to the grid [rows, D].
template <int D>
struct grid_sink {
  float const* bias;  ///< [D], aligned to 8 bytes where D is even
  float* grid;

  [[nodiscard]] grid_sink skip(std::ptrdiff_t rows) const { return {bias, grid == nullptr ? grid : grid + rows * D}; }
  __device__ void operator()(int row, int column, float v) const {
    grid[std::ptrdiff_t{row} * D + column] = v + bias[column];
  }
  __device__ void operator()(int row, int column, float2 v) const {
    float2 const b = *reinterpret_cast<float2 const*>(bias + column);
    *reinterpret_cast<float2*>(grid + std::ptrdiff_t{row} * D + column) = make_float2(v.x + b.x, v.y + b.y);
  }
};

/// Bias and position embedding added, to token rows [pictures (Tokens + 1), D]. A picture's first patch also writes its
/// class token. The embeddings may lie at any address.
template <int D, int Tokens>
struct token_sink {
  static constexpr int middle = Tokens / 2;  ///< the class token of Tokens + 1
  float const *bias, *cls, *pos;
  float* x;

  [[nodiscard]] token_sink skip(std::ptrdiff_t rows) const {
    return {bias, cls, pos, x == nullptr ? x : x + rows / Tokens * (Tokens + 1) * D};
  }
  __device__ void operator()(int row, int column, float v) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    to[token * D] = v + bias[column] + pos[token * D + column];
    if (patch == 0) to[middle * D] = cls[column] + pos[middle * D + column];
  }
  __device__ void operator()(int row, int column, float2 v) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    float2 const c = *reinterpret_cast<float2 const*>(bias + column);
    float const* const p = pos + token * D + column;
    *reinterpret_cast<float2*>(to + token * D) = make_float2(v.x + c.x + p[0], v.y + c.y + p[1]);
    if (patch != 0) return;
    float const* const q = pos + middle * D + column;
    *reinterpret_cast<float2*>(to + middle * D) = make_float2(cls[column] + q[0], cls[column + 1] + q[1]);
  }
};

/// As it is, to part blockIdx.z of [parts, rows, D].
template <int D>
struct part_sink {
  float* parts;
  std::ptrdiff_t rows;

  __device__ void operator()(int row, int column, float2 v) const {
    *reinterpret_cast<float2*>(parts + (std::ptrdiff_t(blockIdx.z) * rows + row) * D + column) = v;
  }
};

}  // namespace dm2::cuda::detail
