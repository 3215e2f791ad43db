/// @file
/// Scores and their gradient in tiles, in float or TF32.
///
/// First of the kernels of backward_tiled.cuh, which has the equations. A block has one tile of 64 x 64 tokens, on or
/// below the diagonal, of one group: the scores G once, then head after head W = dy x^T, of which the gradient of the
/// scores is a sum, and the steps' gradient needs sums over rows and columns. G, the gradient and W stay in registers.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/ssd/tiled.cuh>
#include <dm2/cuda/tile/float_product.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::ssd {

/// What lies between the kernels, for some of the sequences at a time. A place is a sequence and group, a line a
/// sequence and head.
struct tiled_gradients {
  int length, pitch, tiles;
  float4* decays;     ///< [lines, tiled_tokens(L)], of token_decays_kernel
  float* scores;      ///< [places, L, pitch]: G_ij in row i
  float* gradient;    ///< [places, L, pitch]: of G_ij, in row i
  float* transposed;  ///< [places, L, pitch]: of G_ij, in row j
  /// [lines, tiles, L] of gamma_ij = G_ij E_ij W_ij dt_j: with a tile of earlier tokens the row's sum, with a tile of
  /// later ones the column's, with the token's own tile the sum over i >= t > j.
  float* sums;
  float *x_u, *skip;  ///< [sequences, units, L]: a slice's x . U and dy . x

  template <class Tr>
  static tiled_gradients take(arena& a, std::type_identity<Tr>, int sequences, int length) {
    tiled_gradients s{};
    s.length = length, s.pitch = (length + 3) / 4 * 4, s.tiles = (length - 1) / block_side + 1;
    std::size_t const n = std::size_t(sequences), tokens = std::size_t(length);
    std::size_t const square = n * Tr::groups * tokens * std::size_t(s.pitch), lines = n * Tr::heads;
    s.decays = a.take<float4>(lines * std::size_t(tiled_tokens(length)));
    s.scores = a.take<float>(square), s.gradient = a.take<float>(square), s.transposed = a.take<float>(square);
    s.sums = a.take<float>(lines * tokens * std::size_t(s.tiles));
    s.x_u = a.take<float>(n * Tr::units * tokens), s.skip = a.take<float>(n * Tr::units * tokens);
    return s;
  }
  [[nodiscard]] __device__ std::ptrdiff_t square(int place) const { return std::ptrdiff_t{place} * length * pitch; }
  [[nodiscard]] __device__ float4 const* decays_of(int line) const {
    return decays + std::ptrdiff_t{line} * tiled_tokens(length);
  }
  /// Of a line's tokens with those of tile k.
  [[nodiscard]] __device__ float* sums_of(int line, int k) const {
    return sums + (std::ptrdiff_t{line} * tiles + k) * length;
  }
};

/// Rows of tokens of which a group's heads are summed one after the other, each from a multiple of a slab on.
template <int Heads, int Width>
struct head_rows {
  static constexpr bool copied = true;
  static constexpr int slabs = (Width - 1) / float_tile::slab + 1;  ///< of a head
  static constexpr int depth = Heads * slabs * float_tile::slab;
  using place = float_rows::place;
  float const* data;  ///< of the first head
  std::ptrdiff_t stride;
  int rows;

  __device__ place locate(int row) const { return {row < rows ? std::ptrdiff_t{row} * stride : -1}; }
  __device__ float const* piece(place const& p, int k, bool& inside) const {
    int const head = k / (slabs * float_tile::slab), column = k % (slabs * float_tile::slab);
    inside = p.at >= 0 && column < Width && head < Heads;
    return inside ? data + p.at + head * Width + column : data;
  }
};

/// A block's place: a tile of rows from i0 and columns from j0 on.
struct score_tile {
  int row, column, i0, j0;

  /// The tiles on and below the diagonal, row by row.
  __device__ explicit score_tile(int index) : row{0} {
    while (index > row) index -= ++row;
    column = index, i0 = row * block_side, j0 = column * block_side;
  }
  [[nodiscard]] __device__ bool diagonal() const { return row == column; }
};

/// The block's shared memory beside the products' stages.
struct score_sums {
  float columns[4][block_side];  ///< of the warps' rows
  float rectangle[2][block_side];
  float square[block_side][block_side + 1];
};

/// The sum of gamma of a thread's column j over its warp's rows, to shared memory; sum: over its own rows.
template <class Sums>
__device__ inline void share_column(score_sums& shared, int j, float sum) {
  sum = Sums::over_column(sum);
  if (Sums::first_of_column()) shared.columns[threadIdx.x / 32][Sums::column(j)] = sum;
}

/// A head's sums of gamma to memory. `rows`: over a thread's columns.
template <class Sums>
__device__ inline void write_sums(float const (&rows)[Sums::own_rows], score_sums& shared, score_tile const& at,
                                  tiled_gradients const& s, int line) {
  int const t = int(threadIdx.x);
  bool const writes = t < block_side && at.j0 + t < s.length;
  if (at.diagonal()) {
    rectangle_sums(shared.square, shared.rectangle);
    if (writes) s.sums_of(line, at.row)[at.j0 + t] = shared.rectangle[0][t] + shared.rectangle[1][t];
    return;
  }
#pragma unroll
  for (int i = 0; i < Sums::own_rows; ++i) {
    float const sum = Sums::over_row(rows[i]);
    int const token = at.i0 + Sums::row(i);
    if (Sums::first_of_row() && token < s.length) s.sums_of(line, at.column)[token] = sum;
  }
  __syncthreads();
  auto const& c = shared.columns;
  if (writes) s.sums_of(line, at.row)[at.j0 + t] = (c[0][t] + c[1][t]) + (c[2][t] + c[3][t]);
}

/// A head's part of the gradient, and the sums of gamma. `w` is the head's W, and zero afterwards.
template <class Sums>
__device__ inline void add_head(Sums& gradient, Sums& w, Sums& g, score_sums& shared, score_tile const& at,
                                tiled_gradients const& s, int line) {
  float4 const* const decays = s.decays_of(line);
  float2 own[Sums::own_rows];
  float rows[Sums::own_rows] = {};
#pragma unroll
  for (int i = 0; i < Sums::own_rows; ++i) {
    float4 const v = __ldg(decays + min(at.i0 + Sums::row(i), s.length - 1));
    own[i] = {v.x, v.y};
  }
#pragma unroll
  for (int j = 0; j < Sums::own_columns; ++j) {
    float4 const from = __ldg(decays + min(at.j0 + Sums::column(j), s.length - 1));
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Sums::own_rows; ++i) {
      // A choice, not a factor: above the diagonal the exponential may be infinite.
      bool const later = at.i0 + Sums::row(i) >= at.j0 + Sums::column(j);
      float const decay = exp2_fast((own[i].x - from.x) + (own[i].y - from.y));
      float const score = later ? w.at(i, j) * (decay * from.z) : 0.f, gamma = score * g.at(i, j);
      gradient.at(i, j) += score, w.at(i, j) = 0;
      rows[i] += gamma, sum += gamma;
      if (at.diagonal()) shared.square[Sums::row(i)][Sums::column(j)] = gamma;
    }
    share_column<Sums>(shared, j, sum);
  }
  write_sums<Sums>(rows, shared, at, s, line);
}

/// Block x: tile, then sequence from `first` on; y: group.
template <class P, bool Tf32>
__global__ void __launch_bounds__(float_tile::threads, 3)
    tiled_gradient_kernel(__grid_constant__ P const p, __grid_constant__ tiled_gradients const s, int first) {
  using sizes = typename P::sizes;
  using sums = std::conditional_t<Tf32, tf32_sums_of<block_side>, float_sums_of<block_side>>;
  using rows = head_rows<sizes::per_group, sizes::headdim>;
  __shared__ float_stage_of<block_side> stage[float_tile::stages];
  __shared__ score_sums shared;
  int const all = s.tiles * (s.tiles + 1) / 2, local = int(blockIdx.x) / all, group = int(blockIdx.y);
  score_tile const at{int(blockIdx.x) % all};
  std::ptrdiff_t const token = std::ptrdiff_t{first + local} * s.length;
  sums g, w, gradient;
  float_product(g, stage,
                float_rows{p.c + token * p.c_stride + group * sizes::state, p.c_stride, s.length, sizes::state},
                float_rows{p.b + token * p.b_stride + group * sizes::state, p.b_stride, s.length, sizes::state}, at.i0,
                at.j0, sizes::state);
  std::ptrdiff_t const square = s.square(local * sizes::groups + group);
  g.each([&](int i, int j, float v) {
    if (at.i0 + i < s.length && at.j0 + j < s.length)
      s.scores[square + std::ptrdiff_t{at.i0 + i} * s.pitch + at.j0 + j] = v;
  });
  __syncthreads();  // the stages are filled again
  int const column = group * sizes::per_group * sizes::headdim, line = local * sizes::heads + group * sizes::per_group;
  float_product(w, stage, rows{p.dy + token * p.dy_stride + column, p.dy_stride, s.length},
                rows{p.x + token * p.x_stride + column, p.x_stride, s.length}, at.i0, at.j0, rows::depth,
                [&](int slab) {
                  if (slab % rows::slabs == rows::slabs - 1)
                    add_head(gradient, w, g, shared, at, s, line + slab / rows::slabs);
                });
  gradient.each([&](int i_, int j_, float v) {  // zeros up to the pitch, since pieces of four are read
    int const i = at.i0 + i_, j = at.j0 + j_;
    if (i < s.length && j < s.pitch) s.gradient[square + std::ptrdiff_t{i} * s.pitch + j] = v;
    if (j < s.length && i < s.pitch) s.transposed[square + std::ptrdiff_t{j} * s.pitch + i] = v;
  });
}

}  // namespace dm2::cuda::detail::ssd
